(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { latents, proteins, names, taxa, top } = data;
  const total = latents.density.length;
  const shows = (key) => document.querySelector(`[data-sort="${key}"]`) !== null;
  const columns = {
    concept: shows("conceptF1"), name: shows("skill"), stable: shows("stability"), spread: shows("entropy"),
  };
  const perResidue = top.some((entries) => entries.some(([, , position]) => position !== null));
  const [GOOD, RARE] = [0.5, 0.05];
  const show = document.getElementById("show");
  latents.latent = latents.density.map((_, latent) => latent);

  // How far a name goes from one that says nothing, of which F1 rises with how often the latent
  // fires, to a perfect one.
  latents.skill = latents.score.map((score, latent) => {
    const baseline = latents.baseline[latent];
    return score === null || baseline === null ? null : (score - baseline) / Math.max(1 - baseline, 1e-9);
  });

  // How near the nearest latent of another seed is, by direction or by firing.
  latents.stability = latents.stabilityCosine.map((cosine, latent) => {
    const known = [cosine, latents.stabilityCorrelation[latent]].filter((value) => value !== null);
    return known.length ? Math.max(...known) : null;
  });

  const nameOf = (protein) => names[proteins.name[protein]] ?? null;
  const taxonOf = (protein) => taxa[proteins.taxon[protein]] ?? null;
  const conceptOf = (latent) => data.conceptNames[data.concepts[latent][0]?.[0]]?.[1] ?? null;
  latents.conceptF1 = data.concepts.map(([best]) => best?.[4] ?? null);
  const fires = (latent) => latents.firingRows[latent] > 0;
  const texts = latents.latent.map((latent) => {
    const words = [latent, latents.label[latent], latents.taxon[latent], conceptOf(latent), latents.name[latent]];
    for (const [protein] of top[latent]) words.push(proteins.id[protein], nameOf(protein), taxonOf(protein));
    return words.filter((word) => word !== null).join("\n").toLowerCase();
  });

  const trivialF1 = (latent) => data.conceptNames[data.concepts[latent][0]?.[0]]?.[3] ?? 0;
  const toldConcept = (latent) => {
    const f1 = latents.conceptF1[latent];
    return f1 >= GOOD && f1 > trivialF1(latent);
  };

  const kinds = {
    all: () => true,
    firing: fires,
    silent: (latent) => !fires(latent),
    rare: (latent) => fires(latent) && latents.proteinDensity[latent] < RARE,
  };
  const filters = [
    ["named", "telling name", (latent) => latents.skill[latent] >= GOOD, "skill"],
    ["concept", "concept F1 ≥ 0.5", (latent) => toldConcept(latent), "conceptF1"],
    ["taxonomic", "taxonomic", (latent) => latents.taxonomic[latent] === true, "taxonomic"],
    ["stable", "stable", (latent) => latents.again[latent] === "stable", "again"],
    ["several", "not memory", (latent) => latents.memory[latent] === false, "memory"],
    ["memory", "memory", (latent) => latents.memory[latent] === true, "memory"],
  ].filter(([, , , column]) => latents[column].some((value) => value !== null));
  const boxes = filters.map(([key, title, passes]) => {
    const box = element("input", { type: "checkbox", value: key });
    const many = latents.latent.filter(passes).length;
    document.getElementById("filters").append(
      element("label", {}, box, title, " ", dim(many.toLocaleString("en"))));
    return [box, passes];
  });
  const accepts = (latent) =>
    kinds[show.value](latent) && boxes.every(([box, passes]) => !box.checked || passes(latent));

  const cells = (latent) => {
    const fill = element("i");
    fill.style.width = `${100 * latents.proteinDensity[latent]}%`;
    const shown = columns.name ? [labelCell(latent), scoreCell(latent)] : [nameCell(latent)];
    shown.push(cell("n", percent(latents.proteinDensity[latent]), element("span", { className: "bar" }, fill)));
    if (columns.concept) shown.push(conceptCell(latent));
    shown.push(taxonCell(latent));
    if (columns.stable) shown.push(stableCell(latent));
    if (columns.spread) shown.push(cell("n wide-only roomy", number(latents.entropy[latent])));
    return shown;
  };
  const labelCell = (latent) => {
    const label = latents.label[latent];
    if (label === null) return nameCell(latent);
    return cell(latents.skill[latent] >= GOOD ? "" : "weak", label, latents.memory[latent] ? dim(" (memory)") : "");
  };
  const scoreCell = (latent) => {
    const [score, baseline] = [latents.score[latent], latents.baseline[latent]];
    if (score === null) return cell("n dim", "–");
    return cell(latents.skill[latent] >= GOOD ? "n" : "n weak", score.toFixed(2),
      baseline >= 0.1 ? element("small", { className: "dim", textContent: `base ${baseline.toFixed(2)}` }) : "");
  };
  const nameCell = (latent) => {
    const name = latents.name[latent];
    const size = top[latent].length;
    if (name === null) return cell("dim", size ? "no telling name" : "silent");
    const shared = latents.nameCount[latent];
    if (shared < 2) return cell("dim", "top proteins all differ");
    return cell("weak", name, " ", dim(`${shared} of its top ${size}`));
  };
  const conceptCell = (latent) => {
    if (conceptOf(latent) === null) return cell("dim wide-only", "–");
    if (latents.conceptF1[latent] <= trivialF1(latent)) return cell("dim wide-only", "none on test");
    return cell(toldConcept(latent) ? "wide-only" : "wide-only weak", conceptOf(latent), " ", dim(number(latents.conceptF1[latent])));
  };
  const taxonCell = (latent) => {
    const [taxon, q] = [latents.taxon[latent], latents.taxonQ[latent]];
    if (taxon === null || q === null) return cell("dim wide-only", "–");
    const sure = latents.taxonomic[latent];
    return cell(sure ? "wide-only" : "wide-only weak", sure ? taxon : "none", " ", dim(`q ${number(q)}`));
  };
  const stableCell = (latent) => {
    const [nearest, again] = [latents.stability[latent], latents.again[latent]];
    if (again === null || nearest === null) return cell("n wide-only dim", "–");
    const shown = cell(again === "not found" ? "n wide-only dim" : "n wide-only", nearest.toFixed(2), again === "stable" ? " ✓" : "");
    shown.title = `${again}: by direction ${number(latents.stabilityCosine[latent])}, by firing ${number(latents.stabilityCorrelation[latent])}`;
    return shown;
  };

  const proteinItem = ([protein, activation, position, stretch]) => {
    const [name, taxon, length] = [nameOf(protein), taxonOf(protein), proteins.length[protein]];
    const facts = [name === null ? null : proteins.id[protein], length === null ? null : `${length} residues`,
      position === null ? null : `peak at residue ${position}`];
    const under = element("div", { className: "under" });
    if (taxon !== null) under.append(element("em", { textContent: taxon }), " · ");
    under.append(facts.filter((fact) => fact !== null).join(" · "));
    return element("li", {},
      element("div", { className: "line" }, proteinTitle(name ?? proteins.id[protein], proteins.accession[protein]),
        element("data", { value: activation, textContent: number(activation) })),
      under,
      stretch === null ? null : sequence(stretch, position, length));
  };
  const examples = (latent) => {
    const parts = [];
    const ranges = ["strongest fifth", "second fifth", "middle fifth", "fourth fifth", "weakest fifth"];
    ranges.forEach((range, fifth) => {
      const drawn = data.examples[latent].filter(([of]) => of === fifth);
      if (!drawn.length) return;
      parts.push(element("h4", { className: "fifth", textContent: range }),
        element("ol", { className: "proteins" }, ...drawn.map(([, ...entry]) => proteinItem(entry))));
    });
    return parts;
  };

  const taxonBars = (latent) => {
    const grid = element("div", { className: "bars" });
    for (const entry of data.bars[latent]) {
      const [taxon, firing, size, low, high, elsewhere, odds, oddsLow, oddsHigh, q, strict, families, sure] = entry;
      const track = element("div", { className: "track" });
      const [fill, interval] = [element("i"), element("s", { title: `95% interval: ${percent(low)} to ${percent(high)}` })];
      fill.style.width = `${(100 * firing) / size}%`;
      interval.style.left = `${100 * low}%`;
      interval.style.width = `${100 * (high - low)}%`;
      track.append(fill, interval);
      if (elsewhere !== null) {
        const tick = element("u", { title: `all other taxa: ${percent(elsewhere)}` });
        tick.style.left = `calc(${100 * elsewhere}% - 1px)`;
        track.append(tick);
      }
      const ratio = `odds ratio ${number(odds)} (${number(oddsLow)} to ${oddsHigh === null ? "∞" : number(oddsHigh)})`;
      const tested = q === null ? "too few to test"
        : `${ratio}, q ${number(q)}, stricter q ${number(strict)}, ` +
          (data.families ? plural(families, "family", "families") : plural(families, "protein", "proteins"));
      grid.append(element("span", { className: sure ? "sure" : "", textContent: taxa[taxon] }), track,
        element("span", { className: "n", textContent: `${firing} of ${size}` }),
        element("span", { className: "n dim", textContent: sure ? "✓" : "" }),
        element("small", { className: "wide-row", textContent: tested }));
    }
    return grid;
  };
  const letterBars = (latent) => {
    const grid = element("div", { className: "bars letters" });
    for (const [letter, share] of latents.residues[latent]) {
      const fill = element("i");
      fill.style.width = `${100 * share}%`;
      grid.append(element("span", { className: "letter", textContent: letter }),
        element("div", { className: "track" }, fill),
        element("span", { className: "n", textContent: percent(share) }));
    }
    return grid;
  };
  const conceptTable = (latent) => scoreTable(
    ["concept", "validation", "test F1", "AUROC"],
    data.concepts[latent].map(([place, validation, precision, recall, f1, auroc, chosen]) => {
      const [source, concept, level, trivial] = data.conceptNames[place];
      const found = `${source}, per ${level}${chosen ? ", its best latent" : ""}; precision ${number(precision)}, ` +
        `recall ${number(recall)}; F1 of calling all ${number(trivial)}`;
      return [element("span", {}, concept, element("small", { textContent: found })), ...[validation, f1, auroc].map(number)];
    }));
  const latentLink = (latent) => element("a", { href: `#latent-${latent}`, textContent: latent });
  const nearTable = (latent) => scoreTable(["latent", "cosine", "correlation"],
    data.near[latent].map(([other, cosine, correlation]) => [
      element("span", {}, latentLink(other), " ", dim(latents.label[other] ?? "")), number(cosine), number(correlation)]));
  // The other's latents are numbers of another report: nothing to link to.
  const matchTable = (latent) => scoreTable(["other seed", "by direction", "cosine", "by firing", "correlation"],
    data.matches[latent].map(([k, byCosine, cosine, mutual, byFiring, correlation, both]) => [
      `k = ${k}`, shownMatch(byCosine, mutual), number(cosine), shownMatch(byFiring, both), number(correlation)]));
  const shownMatch = (latent, mutual) => (latent === null ? "–" : `${latent}${mutual ? " ⇄" : ""}`);
  const markedList = (latent) => element("ul", { className: "links" },
    ...data.marked[latent].map(([cluster, label, size, precision, recall, f1]) => {
      const text = label === null ? `cluster ${cluster}` : `cluster ${cluster}: ${label}`;
      const address = data.clusterPage === null ? null : `${data.clusterPage}#cluster-${cluster}`;
      return element("li", {}, address === null ? text : element("a", { href: address, textContent: text }),
        ` (${plural(size, "protein", "proteins")}) `,
        dim(`held out: F1 ${number(f1)}, precision ${number(precision)}, recall ${number(recall)}`));
    }));

  const badges = (latent) => {
    const shown = [];
    const badge = (text, className = "") => shown.push(element("li", { className, textContent: text }));
    if (latents.kind[latent] !== null) badge(`named by ${latents.kind[latent]}`);
    if (latents.taxonomic[latent]) badge("taxonomic", "good");
    const again = latents.again[latent];
    if (again === "stable") badge("stable", "good");
    else if (again !== null) badge(`another seed: ${again}`, again === "not found" ? "care" : "");
    if (latents.memory[latent]) badge("memory: 90% in one family", "care");
    return shown.length ? [element("ul", { className: "badges" }, ...shown)] : [];
  };
  // Share of the firing rows above a threshold, which may lie inside a bin of the histogram.
  const shareAbove = (latent, threshold) => {
    const counts = latents.histogram[latent];
    const at = (threshold * counts.length) / latents.max[latent];
    const above = counts.reduce((sum, count, bin) => sum + count * Math.min(Math.max(bin + 1 - at, 0), 1), 0);
    return above / latents.firingRows[latent];
  };
  const boundSentence = (latent) => {
    const threshold = latents.threshold[latent];
    return threshold > 0 ? ` About ${percent(shareAbove(latent, threshold))} of its firing is above ${number(threshold)}.` : "";
  };
  const scoreSentence = (latent) => {
    const [score, threshold] = [latents.score[latent], latents.threshold[latent]];
    const unit = latents.level[latent] === "residue" ? "residues" : "proteins";
    if (score === null) return `The name was not scored: too few held-out ${unit} bear it.${boundSentence(latent)}`;
    const firing = threshold > 0 ? `activation above ${number(threshold)}` : "firing";
    return `On held-out ${unit} the name predicts ${firing} with F1 ${score.toFixed(2)} (precision ` +
      `${number(latents.precision[latent])}, recall ${number(latents.recall[latent])}, ` +
      `${latents.heldOut[latent].toLocaleString("en")} bear it); a name that says nothing would score ${latents.baseline[latent].toFixed(2)}.${boundSentence(latent)}`;
  };
  const statements = (latent) => {
    const parts = [];
    if (latents.label[latent] !== null) parts.push(scoreSentence(latent));
    if (latents.residue[latent] !== null && latents.residueShare[latent] >= GOOD) {
      parts.push(`${percent(latents.residueShare[latent])} of the residues it fires on are ` +
        `${latents.residue[latent]} (${percent(latents.residueBackground[latent])} of all are).`);
    }
    const [shared, size] = [latents.nameCount[latent], top[latent].length];
    if (shared >= 2) parts.push(`${shared} of its ${size} strongest proteins are named ${latents.name[latent]}.`);
    if (latents.families[latent] !== null) parts.push(`It fires on ${plural(latents.families[latent], "family", "families")} of similar proteins.`);
    return parts;
  };

  const panel = (latent) => ({ title: `Latent ${latent}`, content: fires(latent) ? content(latent)
    : [element("p", { textContent: "Silent: it fires on none of the rows encoded here." })] });
  const content = (latent) => {
    const label = latents.label[latent];
    const says = statements(latent);
    const stretches = top[latent].map(([, , , stretch]) => stretch).filter((stretch) => stretch !== null);
    const legend = !stretches.length ? "" : stretches.some(([, , marks]) => marks.includes("_"))
      ? "colour: activation; pale: residue not encoded" : "colour: activation";
    const drawn = examples(latent);
    const optional = (entries, ...parts) => (entries[latent].length ? section(...parts) : []);
    return [
      ...(label === null ? [] : [element("p", { className: "name", textContent: label })]),
      ...badges(latent),
      element("ul", { className: "says" }, ...says.map((textContent) => element("li", { textContent }))),
      element("dl", { className: "stats" },
        stat("proteins", `${latents.firingProteins[latent].toLocaleString("en")} (${percent(latents.proteinDensity[latent])})`),
        ...(perResidue ? [stat("residues", `${latents.firingRows[latent].toLocaleString("en")} (${percent(latents.density[latent])})`)] : []),
        stat("mean", number(latents.mean[latent])),
        stat("peak", number(latents.max[latent]))),
      ...section("Activations", perResidue ? "number of residues" : "number of proteins", histogram(latents.histogram[latent], latents.max[latent])),
      ...(latents.residues[latent] === null ? [] : section("Amino acids", "share of the residues it fires on", letterBars(latent))),
      ...section("Strongest proteins", legend,
        element("ol", { className: "proteins" }, ...top[latent].map(proteinItem))),
      ...(drawn.length ? section("Over the whole range", "two drawn from each fifth of its other proteins", ...drawn) : []),
      ...optional(data.concepts, "Concepts", "by validation, above that of calling everything", conceptTable(latent)),
      ...section("Taxa", "share of proteins it fires in, with 95% interval; tick: all other taxa",
        data.bars[latent].length ? taxonBars(latent) : element("p", { className: "note", textContent: "It fires in no protein of the sampled taxa." })),
      ...optional(data.marked, "Density clusters", "that it marks", markedList(latent)),
      ...optional(data.near, "Near duplicates", "alike in direction (cosine) or in where they fire (correlation)", nearTable(latent)),
      ...optional(data.matches, "In other seeds", "best matches; ⇄ both ways", matchTable(latent)),
    ];
  };

  const map = latentMap(latents, (latent) => go(latent));
  const go = browseTable({
    name: "latent",
    total,
    texts,
    columns: latents,
    sort: { key: columns.name ? "skill" : "nameCount", down: true },
    ascending: ["latent", "taxonQ"],
    accepts,
    reset: () => {
      show.selectedIndex = 0;
      for (const [box] of boxes) box.checked = false;
    },
    cells,
    panel,
    listed: map.list,
    marked: map.select,
  });
})();
