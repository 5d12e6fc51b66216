"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { latents, top, bars, proteins } = data;
  const total = latents.density.length;
  const residues = latents.residue.some((letter) => letter !== null);
  const perResidue = document.querySelector('[data-sort="density"]') !== null;
  const PAGE = 150;
  // Below one and a half times as often as elsewhere a taxon is not worth naming.
  const EVEN = Math.log2(1.5);

  const body = document.querySelector("#latents tbody");
  const search = document.getElementById("search");
  const show = document.getElementById("show");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const none = document.getElementById("none");
  const detail = document.getElementById("detail");
  const sorters = [...document.querySelectorAll("[data-sort]")];
  const beside = window.matchMedia("(min-width: 70rem)");

  let order = [];
  let drawn = 0;
  let sort = { key: "nameCount", down: true };
  let opened = null;

  const texts = Array.from({ length: total }, (_, latent) => {
    const words = [latent, latents.taxon[latent], latents.name[latent]];
    for (const [protein] of top[latent]) words.push(...proteins[protein].slice(0, 3));
    return words.filter((word) => word !== null).join("\n").toLowerCase();
  });

  const kinds = {
    all: () => true,
    firing: (latent) => latents.firingRows[latent] > 0,
    silent: (latent) => latents.firingRows[latent] === 0,
    rare: (latent) => latents.firingRows[latent] > 0 && latents.proteinDensity[latent] < 0.05,
    named: (latent) => latents.nameCount[latent] >= 5,
  };

  const select = () => {
    const wanted = search.value.trim().toLowerCase();
    const exact = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : null;
    const words = wanted.split(/\s+/).filter(Boolean);
    const matches = (latent) =>
      latent === exact || words.every((word) => texts[latent].includes(word));
    order = [];
    for (let latent = 0; latent < total; latent++) {
      if (kinds[show.value](latent) && matches(latent)) order.push(latent);
    }
    const column = sort.key === "latent" ? null : latents[sort.key];
    const value = (latent) => (column === null ? latent : column[latent]);
    const direction = sort.down ? -1 : 1;
    order.sort((one, other) => {
      if (exact !== null && (one === exact || other === exact)) return one === exact ? -1 : 1;
      const [a, b] = [value(one), value(other)];
      // Latents without a value come last in both directions.
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      return direction * (a - b) || latents.firingProteins[one] - latents.firingProteins[other] || one - other;
    });
    body.replaceChildren();
    drawn = 0;
    draw();
    count.textContent = `${order.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    none.hidden = order.length > 0;
  };

  const draw = () => {
    const next = order.slice(drawn, drawn + PAGE);
    body.append(...next.map(row));
    drawn += next.length;
    more.hidden = drawn >= order.length;
    more.textContent = `Show more (${(order.length - drawn).toLocaleString("en")} left)`;
  };

  const cell = (className, ...children) => element("td", { className }, ...children);
  const row = (latent) => {
    const open = element("button", { type: "button", textContent: latent });
    open.setAttribute("aria-label", `Open latent ${latent}`);
    const fill = element("i");
    fill.style.width = `${100 * latents.proteinDensity[latent]}%`;
    const cells = [
      cell("n", open),
      cell("n", percent(latents.proteinDensity[latent]), element("span", { className: "bar" }, fill)),
    ];
    if (perResidue) cells.push(cell("n wide-only", percent(latents.density[latent])));
    cells.push(cell("n wide-only roomy", number(latents.max[latent])));
    if (residues) cells.push(residueCell(latent));
    cells.push(taxonCell(latent), nameCell(latent));
    const line = element("tr", {}, ...cells);
    line.dataset.latent = latent;
    line.classList.toggle("open", latent === opened);
    return line;
  };
  const taxonCell = (latent) => {
    const [taxon, ratio] = [latents.taxon[latent], latents.ratio[latent]];
    if (taxon === null) return cell("dim wide-only", "–");
    if (ratio !== null && ratio < EVEN) return cell("dim wide-only", "about even");
    return cell("wide-only", taxon, " ",
      element("span", { className: "dim", textContent: ratio === null ? "" : signed(ratio) }));
  };
  const residueCell = (latent) => {
    const letter = latents.residue[latent];
    if (letter === null) return cell("dim", "–");
    return cell("", element("span", { className: "letter", textContent: letter }), " ",
      element("span", { className: "dim", textContent: percent(latents.residueShare[latent]) }));
  };
  const nameCell = (latent) => {
    const name = latents.name[latent];
    const size = top[latent].length;
    if (name === null) return cell("dim", size ? "no telling name" : "silent");
    const shared = latents.nameCount[latent];
    if (shared < 2) return cell("dim", "all different");
    return cell("", name, " ",
      element("span", { className: "dim", textContent: `${shared} of ${size}` }));
  };

  const setSort = (key) => {
    const textual = key === "latent";
    sort = { key, down: sort.key === key ? !sort.down : !textual };
    for (const button of sorters) {
      const heading = button.parentElement;
      if (button.dataset.sort === sort.key) {
        heading.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      } else heading.removeAttribute("aria-sort");
    }
    select();
  };

  const histogram = (latent) => {
    const counts = latents.histogram[latent];
    const [width, height, floor] = [440, 96, 76];
    const highest = Math.max(...counts);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img",
      "aria-label": `Activations from 0 to ${number(latents.max[latent])}` });
    const step = width / counts.length;
    counts.forEach((value, bin) => {
      if (!value) return;
      const size = Math.max((floor * value) / highest, 1.5);
      const bar = svg("rect", { x: bin * step + 1, y: floor - size, width: step - 2, height: size });
      const [from, to] = [bin, bin + 1].map((edge) => number((latents.max[latent] * edge) / counts.length));
      bar.append(svg("title", {}, `${from} to ${to}: ${value.toLocaleString("en")}`));
      picture.append(bar);
    });
    picture.append(
      svg("line", { x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }),
      svg("text", { x: 0, y: height - 4 }, "0"),
      svg("text", { x: width, y: height - 4, "text-anchor": "end" }, number(latents.max[latent])),
      svg("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, "activation"),
    );
    return picture;
  };
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const proteinItem = (latent, [place, activation, position, stretch]) => {
    const [id, name, taxon, length, accession] = proteins[place];
    const facts = [name === null ? null : id, length === null ? null : `${length} residues`,
      position === null ? null : `peak at residue ${position}`];
    const under = element("div", { className: "under" });
    if (taxon !== null) under.append(element("em", { textContent: taxon }), " · ");
    under.append(facts.filter((fact) => fact !== null).join(" · "));
    return element("li", {},
      element("div", { className: "line" }, proteinTitle(name ?? id, accession),
        element("data", { value: activation, textContent: number(activation) })),
      under,
      stretch === null ? null : sequence(stretch, latents.max[latent], position, length));
  };
  const sequence = (stretch, strongest, peak, length) => {
    const fired = new Map(stretch.fired);
    const seen = stretch.seen === null ? null : new Set(stretch.seen);
    const node = element("code", { className: "sequence" });
    if (stretch.start > 1) node.append(element("span", { className: "edge", textContent: `${stretch.start} ` }));
    [...stretch.text].forEach((letter, offset) => {
      const position = stretch.start + offset;
      const residue = element("span", { textContent: letter });
      const activation = fired.get(offset);
      if (activation !== undefined) {
        const strength = 0.18 + (0.72 * activation) / strongest;
        residue.style.backgroundColor = `rgba(var(--fire), ${strength.toFixed(2)})`;
        residue.title = `${letter}${position}: ${number(activation)}`;
      } else if (seen !== null && !seen.has(offset)) {
        residue.className = "unseen";
        residue.title = `${letter}${position}: not encoded`;
      }
      if (position === peak) residue.classList.add("peak");
      node.append(residue);
    });
    const last = stretch.start + stretch.text.length - 1;
    if (last < length) node.append(element("span", { className: "edge", textContent: ` ${last}` }));
    return node;
  };

  const taxonBars = (latent) => {
    const grid = element("div", { className: "bars" });
    for (const [taxon, firing, size, elsewhere, ratio] of bars[latent]) {
      const track = element("div", { className: "track" });
      const fill = element("i");
      fill.style.width = `${(100 * firing) / size}%`;
      track.append(fill);
      if (elsewhere !== null) {
        const tick = element("u", { title: `all other taxa: ${percent(elsewhere)}` });
        tick.style.left = `calc(${100 * elsewhere}% - 1px)`;
        track.append(tick);
      }
      grid.append(element("span", { textContent: taxon }), track,
        element("span", { className: "n", textContent: `${firing} of ${size}` }),
        element("span", { className: "n dim", textContent: ratio === null ? "" : signed(ratio) }));
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

  const statement = (latent) => {
    const parts = [];
    if (latents.residue[latent] !== null && latents.residueShare[latent] >= 0.5) {
      parts.push(`${percent(latents.residueShare[latent])} of the residues it fires on are ` +
        `${latents.residue[latent]} (${percent(latents.residueBackground[latent])} of all are).`);
    }
    const [shared, size] = [latents.nameCount[latent], top[latent].length];
    if (shared >= 2) parts.push(`${shared} of its ${size} strongest proteins are named ${latents.name[latent]}.`);
    return parts.join(" ");
  };

  const render = (latent) => {
    const close = tool("Close", "Close (Escape)", () => leave());
    close.className = "close";
    const title = element("h2", { id: "detail-title", tabIndex: -1, textContent: `Latent ${latent}` });
    const parts = [element("header", {}, title, element("div", { className: "tools" },
      tool("←", "Previous latent (left arrow)", () => step(-1)), tool("→", "Next latent (right arrow)", () => step(1)), close))];
    if (!latents.firingRows[latent]) {
      parts.push(element("p", { textContent: "Silent: it fires on none of the rows encoded here." }));
    } else {
      const says = statement(latent);
      if (says) parts.push(element("p", { className: "says", textContent: says }));
      const stat = (name, value) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
      parts.push(element("dl", { className: "stats" },
        stat("proteins", `${latents.firingProteins[latent].toLocaleString("en")} (${percent(latents.proteinDensity[latent])})`),
        ...(perResidue ? [stat("residues", `${latents.firingRows[latent].toLocaleString("en")} (${percent(latents.density[latent])})`)] : []),
        stat("mean", number(latents.mean[latent])),
        stat("peak", number(latents.max[latent]))));
      parts.push(...section("Activations", perResidue ? "number of residues" : "number of proteins", histogram(latent)));
      if (latents.residues[latent] !== null) parts.push(...section("Amino acids", "share of the residues it fires on", letterBars(latent)));
      const stretches = top[latent].map((entry) => entry[3]).filter((stretch) => stretch !== null);
      const legend = !stretches.length ? "" : stretches.some((stretch) => stretch.seen !== null)
        ? "colour: activation; pale: residue not encoded" : "colour: activation";
      parts.push(...section("Strongest proteins", legend,
        element("ol", { className: "proteins" }, ...top[latent].map((entry) => proteinItem(latent, entry)))));
      parts.push(...section("Taxa", "share of proteins it fires in; tick: all other taxa; right: log2 ratio",
        bars[latent].length ? taxonBars(latent) : element("p", { className: "note", textContent: "It fires in no protein of the sampled taxa." }),
        element("p", { className: "note", textContent: "Descriptive: small numbers, and families are not controlled for." })));
    }
    detail.replaceChildren(...parts);
    detail.hidden = false;
    detail.scrollTop = 0;
    return title;
  };

  const open = (latent, focus) => {
    opened = latent;
    for (const line of body.children) line.classList.toggle("open", Number(line.dataset.latent) === latent);
    const title = render(latent);
    document.body.classList.toggle("reading", !beside.matches);
    if (focus) title.focus({ preventScroll: true });
  };
  const leave = () => {
    const line = [...body.children].find((node) => Number(node.dataset.latent) === opened);
    detail.hidden = true;
    opened = null;
    document.body.classList.remove("reading");
    history.replaceState(null, "", "#browse");
    for (const node of body.children) node.classList.remove("open");
    line?.querySelector("button").focus();
  };
  const step = (by) => {
    const at = order.indexOf(opened) + by;
    if (at >= 0 && at < order.length) location.hash = `latent-${order[at]}`;
  };
  const follow = () => {
    const found = /^#latent-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < total) open(Number(found[1]), true);
  };

  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    const address = `#latent-${line.dataset.latent}`;
    if (location.hash === address) follow();
    else location.hash = address;
  });
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
