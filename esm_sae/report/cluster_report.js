(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { clusters, words, taxa, members, proteins } = data;
  const total = clusters.size.length;
  const SIGNIFICANT = 0.05;
  const show = document.getElementById("show");
  const similarity = document.querySelector('[data-sort="joined"]') !== null;

  const nameOf = (protein) => proteins.name[protein] ?? proteins.id[protein];
  const wordOf = (cluster) =>
    words[cluster].find(([word]) => word === clusters.label[cluster]) ?? words[cluster][0] ?? null;
  const titleOf = (cluster) => clusters.label[cluster] ?? `cluster ${cluster}`;
  clusters.cluster = clusters.size.map((_, cluster) => cluster);
  clusters.labelShare = clusters.label.map((label, cluster) =>
    label === null ? null : wordOf(cluster)[2]);
  clusters.taxonShare = taxa.map((terms) => terms[0]?.[2] ?? null);

  const texts = clusters.cluster.map((cluster) => {
    const parts = [cluster, ...words[cluster].map(([word]) => word), ...taxa[cluster].map(([taxon]) => taxon)];
    for (const protein of [clusters.medoid[cluster], ...members[cluster].map(([place]) => place)]) {
      parts.push(proteins.id[protein], proteins.name[protein] ?? "", proteins.taxon[protein] ?? "");
    }
    return parts.join("\n").toLowerCase();
  });

  const kinds = {
    all: () => true,
    labelled: (cluster) => clusters.label[cluster] !== null,
    plain: (cluster) => clusters.label[cluster] === null,
    joining: (cluster) => clusters.joined[cluster] > 1,
    single: (cluster) => clusters.joined[cluster] === 1,
    copies: (cluster) => clusters.distinct[cluster] < clusters.size[cluster],
  };

  const cells = (cluster) => {
    const shown = [
      cell("n", clusters.size[cluster].toLocaleString("en")), wordCell(cluster), taxonCell(cluster),
    ];
    if (similarity) {
      const joined = clusters.joined[cluster];
      shown.push(joined === null ? cell("n dim wide-only", "–") : cell("n wide-only", joined.toLocaleString("en")));
    }
    shown.push(cell("wide-only", nameOf(clusters.medoid[cluster])));
    return shown;
  };
  const wordCell = (cluster) => {
    const term = wordOf(cluster);
    if (term === null) return cell("dim", "no shared word");
    const labelled = clusters.label[cluster] !== null;
    return cell(labelled ? "" : "dim", element("span", { className: labelled ? "label" : "", textContent: term[0] }),
      " ", dim(`${term[1]} of ${clusters.distinct[cluster]}`));
  };
  const taxonCell = (cluster) => {
    const [term] = taxa[cluster];
    if (term === undefined) return cell("dim wide-only", "all different");
    return cell("wide-only", term[0], " ", dim(`${term[1]} of ${clusters.distinct[cluster]}`));
  };

  const termBars = (terms, cluster) => {
    const grid = element("div", { className: "bars" });
    for (const [term, bearing, share, fold, q] of terms) {
      const weak = q > SIGNIFICANT ? "weak" : "";
      const track = element("div", { className: `track ${weak}` });
      const fill = element("i");
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      const tick = element("u", { title: `all proteins: ${percent(share / fold)}` });
      tick.style.left = `calc(${(100 * share) / fold}% - 1px)`;
      track.append(tick);
      grid.append(element("span", { textContent: term }), track,
        element("span", { className: "n", textContent: `${bearing} of ${clusters.distinct[cluster]}` }),
        element("span", { className: "n dim", title: `q = ${number(q)}`, textContent: `×${number(fold)}` }));
    }
    return grid;
  };

  const statement = (cluster) => {
    const parts = [];
    const [size, distinct] = [clusters.size[cluster], clusters.distinct[cluster]];
    if (clusters.label[cluster] !== null) {
      parts.push(`${wordOf(cluster)[1]} of its ${distinct} distinct proteins have “${clusters.label[cluster]}” in their name.`);
    }
    if (distinct < size) parts.push(`${plural(size - distinct, "protein is a copy", "proteins are copies")} of another.`);
    if (clusters.joined[cluster] === 1) parts.push("All whose similarity cluster is known are of one.");
    if (clusters.joined[cluster] > 1) {
      parts.push(`It joins ${clusters.joined[cluster]} similarity clusters; the commonest has ${percent(clusters.joinedShare[cluster])} of its proteins.`);
    }
    return parts.join(" ");
  };

  const under = (protein) => {
    const node = element("div", { className: "under" });
    if (proteins.taxon[protein] !== null) node.append(element("em", { textContent: proteins.taxon[protein] }), " · ");
    node.append(proteins.id[protein]);
    return node;
  };
  const proteinItem = ([protein, probability]) => element("li", {},
    element("div", { className: "line" }, proteinTitle(nameOf(protein), proteins.accession[protein]),
      element("data", { value: probability, textContent: number(probability) })),
    under(protein));

  const panel = (cluster) => {
    const label = clusters.label[cluster];
    const says = statement(cluster);
    const medoid = clusters.medoid[cluster];
    const listed = (terms, nothing) =>
      terms.length ? termBars(terms, cluster) : element("p", { className: "note", textContent: nothing });
    return {
      title: label === null ? `Cluster ${cluster}` : `Cluster ${cluster}: ${label}`,
      content: [
        ...(says ? [element("p", { className: "says", textContent: says })] : []),
        element("dl", { className: "stats" },
          stat("proteins", clusters.size[cluster].toLocaleString("en")),
          stat("distinct", clusters.distinct[cluster].toLocaleString("en")),
          stat("mean probability", number(clusters.probability[cluster])),
          ...(clusters.length[cluster] === null ? [] : [stat("mean length", `${Math.round(clusters.length[cluster])}`)])),
        ...section("Medoid", "the protein in its middle",
          element("div", { className: "medoid" }, proteinTitle(nameOf(medoid), proteins.accession[medoid]), under(medoid))),
        ...section("Words of the names", "bar: share; tick: share of all proteins; right: fold; pale: q over 5%",
          listed(words[cluster], "No telling word of at least three names is shared by two of these.")),
        ...section("Taxa", "likewise", listed(taxa[cluster], "No taxon of at least three proteins is shared by two of these.")),
        ...section("Surest members", "membership probability",
          element("ol", { className: "proteins" }, ...members[cluster].map(proteinItem))),
        element("p", { className: "note", textContent: "Density, not descent: a cluster is no family until something else says so." }),
      ],
    };
  };

  const placeOf = new Map(data.map.protein.map((protein, index) => [protein, index]));
  const dotOf = (cluster) => placeOf.get(clusters.medoid[cluster]);
  const clusterOf = (index) => data.map.cluster[index];
  const map = dotMap({
    points: data.map,
    layers: (selected, hues) => {
      const fade = selected === null ? 1 : 0.45;
      const of = (fill, radius, opacity, wanted) =>
        ({ fill, radius, opacity, wanted: (index) => wanted(clusterOf(index)) });
      return [
        of("--soft", 1.3, 0.3 * fade, (cluster) => cluster < 0),
        of("--accent", 1.7, 0.5 * fade, (cluster) => cluster >= hues.length),
        ...hues.map((hue, place) => of(hue, 2.6, fade, (cluster) => cluster === place)),
        ...(selected === null ? [] : [
          of("--card", 5.6, 1, (cluster) => cluster === selected),
          of("--hot", 3.9, 1, (cluster) => cluster === selected)]),
      ];
    },
    // The largest clusters, which come first, and the chosen one.
    names: (selected) => {
      const largest = clusters.cluster.slice(0, 9).filter((cluster) => cluster !== selected);
      const named = selected === null ? largest : [selected, ...largest];
      return named.map((cluster) => [dotOf(cluster), titleOf(cluster)]);
    },
    at: dotOf,
    describe: (index) => {
      const [protein, cluster] = [data.map.protein[index], clusterOf(index)];
      return [
        nameOf(protein),
        [proteins.id[protein], proteins.taxon[protein]].filter((part) => part !== null).join(" · "),
        cluster < 0 ? "noise, in no cluster" : `cluster ${cluster}${clusters.label[cluster] === null ? "" : `: ${clusters.label[cluster]}`}`,
      ];
    },
    choose: (index) => {
      if (clusterOf(index) >= 0) go(clusterOf(index));
    },
  });

  const go = browseTable({
    name: "cluster",
    total,
    texts,
    columns: clusters,
    sort: { key: "size", down: true },
    accepts: (cluster) => kinds[show.value](cluster),
    reset: () => { show.value = "all"; },
    cells,
    panel,
    marked: map.select,
  });
})();
