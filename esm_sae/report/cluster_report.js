(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { clusters, words, taxa, members, proteins } = data;
  const total = clusters.size.length;
  const [PAGE, SIGNIFICANT] = [150, 0.05];

  const body = document.querySelector("#clusters tbody");
  const search = document.getElementById("search");
  const show = document.getElementById("show");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const none = document.getElementById("none");
  const detail = document.getElementById("detail");
  const sorters = [...document.querySelectorAll("[data-sort]")];
  const similarity = document.querySelector('[data-sort="joined"]') !== null;
  const beside = window.matchMedia("(min-width: 70rem)");

  let order = [];
  let drawn = 0;
  let sort = { key: "size", down: true };
  let opened = null;

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

  const select = () => {
    const wanted = search.value.trim().toLowerCase();
    const exact = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : null;
    const parts = wanted.split(/\s+/).filter(Boolean);
    order = clusters.cluster.filter((cluster) => kinds[show.value](cluster) &&
      (cluster === exact || parts.every((part) => texts[cluster].includes(part))));
    const column = clusters[sort.key];
    const direction = sort.down ? -1 : 1;
    order.sort((one, other) => {
      if (exact !== null && (one === exact || other === exact)) return one === exact ? -1 : 1;
      const [a, b] = [column[one], column[other]];
      // Clusters without a value come last in both directions.
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      return direction * (a - b) || one - other;
    });
    body.replaceChildren();
    drawn = 0;
    draw();
    count.textContent = `${order.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    none.hidden = order.length > 0 || total === 0;
  };

  const draw = () => {
    const next = order.slice(drawn, drawn + PAGE);
    body.append(...next.map(row));
    drawn += next.length;
    more.hidden = drawn >= order.length;
    more.textContent = `Show more (${(order.length - drawn).toLocaleString("en")} left)`;
  };

  const cell = (className, ...children) => element("td", { className }, ...children);
  const dim = (textContent) => element("span", { className: "dim", textContent });
  const row = (cluster) => {
    const open = element("button", { type: "button", textContent: cluster });
    open.setAttribute("aria-label", `Open cluster ${cluster}`);
    const cells = [
      cell("n", open), cell("n", clusters.size[cluster].toLocaleString("en")), wordCell(cluster), taxonCell(cluster),
    ];
    if (similarity) {
      const joined = clusters.joined[cluster];
      cells.push(joined === null ? cell("n dim wide-only", "–") : cell("n wide-only", joined.toLocaleString("en")));
    }
    cells.push(cell("wide-only", nameOf(clusters.medoid[cluster])));
    const line = element("tr", {}, ...cells);
    line.dataset.cluster = cluster;
    line.classList.toggle("open", cluster === opened);
    return line;
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

  const setSort = (key) => {
    sort = { key, down: sort.key === key ? !sort.down : key !== "cluster" };
    for (const button of sorters) {
      const heading = button.parentElement;
      if (button.dataset.sort === sort.key) {
        heading.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      } else heading.removeAttribute("aria-sort");
    }
    select();
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

  const render = (cluster) => {
    const close = tool("Close", "Close (Escape)", () => leave());
    close.className = "close";
    const name = clusters.label[cluster] === null ? `Cluster ${cluster}` : `Cluster ${cluster}: ${clusters.label[cluster]}`;
    const title = element("h2", { id: "detail-title", tabIndex: -1, textContent: name });
    const stat = (label, value) => element("div", {}, element("dt", { textContent: label }), element("dd", { textContent: value }));
    const says = statement(cluster);
    const medoid = clusters.medoid[cluster];
    const listed = (terms, nothing) =>
      terms.length ? termBars(terms, cluster) : element("p", { className: "note", textContent: nothing });
    detail.replaceChildren(
      element("header", {}, title, element("div", { className: "tools" },
        tool("←", "Previous cluster (left arrow)", () => step(-1)), tool("→", "Next cluster (right arrow)", () => step(1)), close)),
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
      element("p", { className: "note", textContent: "Density, not descent: a cluster is no family until something else says so." }));
    detail.hidden = false;
    detail.scrollTop = 0;
    return title;
  };

  const mark = clusterMap(
    data.map,
    clusters.medoid.map((protein, cluster) => ({ protein, text: titleOf(cluster) })),
    (protein, cluster) => [
      nameOf(protein),
      [proteins.id[protein], proteins.taxon[protein]].filter((part) => part !== null).join(" · "),
      cluster < 0 ? "noise, in no cluster" : `cluster ${cluster}${clusters.label[cluster] === null ? "" : `: ${clusters.label[cluster]}`}`,
    ],
    (cluster) => go(cluster),
  );

  const go = (cluster) => {
    const address = `#cluster-${cluster}`;
    if (location.hash === address) follow();
    else location.hash = address;
  };
  const open = (cluster, focus) => {
    opened = cluster;
    for (const line of body.children) line.classList.toggle("open", Number(line.dataset.cluster) === cluster);
    const title = render(cluster);
    document.body.classList.toggle("reading", !beside.matches);
    mark(cluster);
    if (focus) title.focus({ preventScroll: true });
  };
  const leave = () => {
    const line = [...body.children].find((node) => Number(node.dataset.cluster) === opened);
    detail.hidden = true;
    opened = null;
    document.body.classList.remove("reading");
    history.replaceState(null, "", "#browse");
    for (const node of body.children) node.classList.remove("open");
    mark(null);
    line?.querySelector("button").focus({ preventScroll: true });
  };
  const step = (by) => {
    const at = order.indexOf(opened) + by;
    if (at >= 0 && at < order.length) go(order[at]);
  };
  const follow = () => {
    const found = /^#cluster-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < total) open(Number(found[1]), true);
  };

  body.addEventListener("click", (event) => go(Number(event.target.closest("tr").dataset.cluster)));
  document.addEventListener("keydown", (event) => {
    if (opened === null || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("input, select")) return;
    if (event.key === "Escape") leave();
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  for (const button of sorters) button.addEventListener("click", () => setSort(button.dataset.sort));
  search.addEventListener("input", select);
  show.addEventListener("change", select);
  more.addEventListener("click", draw);
  document.getElementById("clear").addEventListener("click", () => {
    search.value = "";
    show.value = "all";
    select();
    search.focus();
  });
  beside.addEventListener("change", () => document.body.classList.toggle("reading", opened !== null && !beside.matches));
  window.addEventListener("hashchange", follow);

  for (const button of sorters) {
    if (button.dataset.sort === sort.key) button.parentElement.setAttribute("aria-sort", "descending");
  }
  select();
  follow();
  if (opened === null && beside.matches && order.length) open(order[0], false);
})();
