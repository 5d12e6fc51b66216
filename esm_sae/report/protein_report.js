(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { proteins, latents, shown, candidates, report } = data;
  const total = proteins.id.length;
  const [LEVELS, TEN, GOOD, LISTED] = [20, 10, 0.5, 100];
  const show = document.getElementById("show");
  const labels = document.querySelector('[data-sort="named"]') !== null;

  const nameOf = (protein) => proteins.name[protein] ?? proteins.id[protein];
  const candidatesOf = Array.from({ length: total }, () => []);
  for (const candidate of candidates) {
    if (candidate[0] !== null) candidatesOf[candidate[0]].push(candidate);
  }
  // The first latents listed are the most prominent; names that predict little are passed over.
  const namedOf = shown.map((entries) =>
    entries.map(([place]) => place).find((place) => (latents.score[place] ?? 0) >= GOOD) ?? null);
  const byName = proteins.id.map((_, protein) => protein)
    .sort((one, other) => nameOf(one).localeCompare(nameOf(other), "en") || one - other);
  const nameOrder = [];
  byName.forEach((protein, at) => { nameOrder[protein] = at; });
  const columns = {
    protein: proteins.id.map((_, protein) => protein),
    nameOrder,
    length: proteins.length,
    firing: proteins.firing,
    named: namedOf.map((place) => (place === null ? null : latents.score[place])),
  };

  const texts = proteins.id.map((id, protein) => [
    id, proteins.name[protein], proteins.taxon[protein],
    ...shown[protein].map(([place]) => `latent ${latents.latent[place]} ${latents.label[place] ?? ""}`),
    ...candidatesOf[protein].map(([, , concept]) => concept),
  ].filter((text) => text !== null).join("\n").toLowerCase());

  const cell = (className, ...children) => element("td", { className }, ...children);
  const dim = (textContent) => element("span", { className: "dim wrap", textContent });
  const cells = (protein) => {
    const id = proteins.name[protein] === null ? null : dim(proteins.id[protein]);
    const place = namedOf[protein];
    const found = [
      cell("", element("b", { textContent: nameOf(protein) }), " ", id,
        ...candidatesOf[protein].map(([, , concept]) =>
          element("div", { className: "under", textContent: `candidate: ${concept}` }))),
      cell("n wide-only", proteins.length[protein] === null ? "–" : proteins.length[protein].toLocaleString("en")),
      cell("n", proteins.firing[protein].toLocaleString("en")),
    ];
    if (labels) {
      found.push(place === null ? cell("dim wide-only", "–")
        : cell("wide-only", latents.label[place], " ", dim(`(${number(latents.score[place])})`)));
    }
    return found;
  };

  const residueSpans = (protein) => [...proteins.sequence[protein]].map((letter, at) => {
    const seen = at < proteins.encoded[protein];
    return element("span", { textContent: letter, className: seen ? "" : "unseen",
      title: seen ? "" : `${letter}${at + 1}: not encoded` });
  });
  const inTens = (spans) => {
    const whole = element("div", { className: "whole", tabIndex: 0 });
    whole.setAttribute("role", "group");
    for (let start = 0; start < spans.length; start += TEN) {
      whole.append(element("span", { className: "ten" },
        element("span", { className: "at", textContent: start + 1 }),
        ...spans.slice(start, start + TEN)));
    }
    return whole;
  };
  const paint = (spans, [place, , , , peak, , marks]) => {
    for (const span of spans) {
      if (!span.classList.contains("unseen")) {
        Object.assign(span, { className: "", title: "" });
        span.style.backgroundColor = "";
      }
    }
    let at = 0;
    for (let mark = 0; mark < marks.length; mark += 2) {
      at += marks[mark];
      const span = spans[at - 1];
      const strength = 0.15 + (0.75 * marks[mark + 1]) / LEVELS;
      span.className = at === peak ? "on peak" : "on";
      span.style.backgroundColor = `rgba(var(--fire), ${strength.toFixed(2)})`;
      span.title = `${span.textContent}${at}: latent ${latents.latent[place]} at ${Math.round((100 * marks[mark + 1]) / LEVELS)}% of its highest`;
    }
  };

  const oneIn = (share) => (share >= 0.1 ? percent(share) + " of"
    : `1 in ${Number((1 / share).toPrecision(2)).toLocaleString("en")}`);
  const labelOf = (place) => {
    const [label, score] = [latents.label[place], latents.score[place]];
    if (label === null) return null;
    return element("span", { className: score !== null && score >= GOOD ? "" : "guess" },
      label, " ", dim(score === null ? "(not tested)" : `(score ${number(score)})`));
  };
  const pick = (protein, entry, act) => {
    const [place, activation, share, asStrong, peak, rows] = entry;
    const facts = [];
    if (peak !== null) {
      const letter = proteins.sequence[protein]?.[peak - 1] ?? "";
      facts.push(`${plural(rows, "residue", "residues")}, strongest at ${letter}${peak}`);
    }
    if (share !== null) facts.push(`${percent(share)} of its highest`);
    facts.push(asStrong === 0 ? "stronger than anywhere in the analysis"
      : `as strong on ${oneIn(asStrong)} rows analysed`);
    const button = element("button", { type: "button", className: "pick" },
      element("div", { className: "line" },
        element("span", {}, element("b", { textContent: `Latent ${latents.latent[place]}` }), " ", labelOf(place) ?? ""),
        element("data", { value: activation, textContent: number(activation) })),
      element("div", { className: "under", textContent: facts.join(" · ") }));
    button.addEventListener("click", act);
    return button;
  };

  const candidateNotes = (protein) => candidatesOf[protein].map(([, , concept, , latent, , chance, precision]) =>
    element("p", { className: "says" }, "Candidate for ", element("b", { textContent: concept }),
      ` by latent ${latent}`,
      precision === null ? "" : ` (precision ${percent(precision)} on held-out proteins)`,
      chance < 1 ? `; it would fire in ${percent(chance)} of draws like the analysis'` : "",
      "."));

  const panel = (protein) => {
    const facts = [proteins.name[protein] === null ? null : proteins.id[protein], proteins.taxon[protein]];
    const entries = shown[protein];
    const content = [
      element("p", { className: "under" }, facts.filter((fact) => fact !== null).join(" · ")),
      element("dl", { className: "stats" },
        stat("residues", proteins.length[protein] === null ? "–" : proteins.length[protein].toLocaleString("en")),
        stat("latents", proteins.firing[protein].toLocaleString("en"))),
      ...candidateNotes(protein),
    ];
    if (proteins.accession[protein] !== null) {
      content.splice(1, 0, element("p", { className: "under" }, proteinTitle("Open in UniProt", proteins.accession[protein])));
    }
    const spans = proteins.sequence[protein] === null ? null : residueSpans(protein);
    const remark = element("small");
    const link = element("a", { textContent: "see it in the report" });
    const buttons = entries.map((entry, at) => pick(protein, entry, () => choose(at)));
    const choose = (at) => {
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
      const latent = latents.latent[entries[at][0]];
      remark.textContent = `coloured: latent ${latent}`;
      link.href = `${report}#latent-${latent}`;
      if (spans !== null) paint(spans, entries[at]);
    };
    if (spans !== null) {
      const whole = inTens(spans);
      whole.setAttribute("aria-label", "Sequence, residues coloured by activation");
      content.push(element("h3", {}, "Sequence ", remark), whole);
    }
    if (report !== null && entries.length) content.push(element("p", { className: "note" }, link));
    content.push(...section("Latents", entries.length < proteins.firing[protein]
      ? `the ${entries.length} most prominent of ${proteins.firing[protein]}: strong here, rarely so in a protein of its length`
      : "the most prominent first: strong here, rarely so in a protein of its length",
    entries.length ? element("ol", { className: "picks" }, ...buttons.map((button) => element("li", {}, button)))
      : element("p", { className: "note", textContent: "No latent fires on it." })));
    if (entries.length) choose(0);
    return { title: nameOf(protein), content };
  };

  const candidateRow = ([place, id, concept, name, latent, peak, , precision, f1, low, high]) => {
    const protein = place === null ? id : element("a", { href: `#protein-${place + 1}`, textContent: id });
    const range = low === null || high === null ? "" : ` (${number(low)}–${number(high)})`;
    return element("tr", {}, element("th", { scope: "row" }, protein),
      element("td", { className: name === null ? "dim wrap" : "", textContent: name ?? "no name" }),
      element("td", { textContent: concept }),
      element("td", { className: "n", textContent: latent }),
      peak === null ? null : element("td", { className: "n", textContent: peak }),
      element("td", { className: "n", textContent: precision === null ? "–" : percent(precision) }),
      element("td", { className: "n", textContent: `${number(f1)}${range}` }));
  };
  document.getElementById("candidate-rows")?.append(...candidates.slice(0, LISTED).map(candidateRow));

  browseTable({
    name: "protein", first: 1, total, texts, columns, cells, panel,
    sort: { key: "protein", down: false },
    ascending: ["protein", "nameOrder"],
    accepts: (protein) => show === null || show.value === "all" || candidatesOf[protein].length > 0,
    reset: () => { if (show !== null) show.value = "all"; },
  });
})();
