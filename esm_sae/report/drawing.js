// Pictures and tables of what a latent does.

// counts: in bins of equal width from 0 to the highest activation.
const histogram = (counts, highest) => {
  const [width, height, floor] = [440, 96, 76];
  const tallest = Math.max(...counts);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img",
    "aria-label": `Activations from 0 to ${number(highest)}` });
  const step = width / counts.length;
  counts.forEach((value, bin) => {
    if (!value) return;
    const size = Math.max((floor * value) / tallest, 1.5);
    const bar = svg("rect", { x: bin * step + 1, y: floor - size, width: step - 2, height: size });
    const [from, to] = [bin, bin + 1].map((edge) => number((highest * edge) / counts.length));
    bar.append(svg("title", {}, `${from} to ${to}: ${value.toLocaleString("en")}`));
    picture.append(bar);
  });
  picture.append(
    svg("line", { x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }),
    svg("text", { x: 0, y: height - 4 }, "0"),
    svg("text", { x: width, y: height - 4, "text-anchor": "end" }, number(highest)),
    svg("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, "activation"),
  );
  return picture;
};

// start: position of the text's first letter; marks: as windows.py writes them.
const SEQUENCE_STEPS = 35;
const sequence = ([start, text, marks], peak, length) => {
  const node = element("code", { className: "sequence" });
  if (start > 1) node.append(element("span", { className: "edge", textContent: `${start} ` }));
  [...text].forEach((letter, offset) => {
    const position = start + offset;
    const residue = element("span", { textContent: letter });
    const step = Number.parseInt(marks[offset], 36);
    if (step > 0) {
      residue.style.backgroundColor = `rgba(var(--fire), ${(0.18 + (0.72 * step) / SEQUENCE_STEPS).toFixed(2)})`;
      residue.title = `${letter}${position}: ${percent(step / SEQUENCE_STEPS)} of the latent's highest`;
    } else if (marks[offset] === "_") {
      residue.className = "unseen";
      residue.title = `${letter}${position}: not encoded`;
    }
    if (position === peak) residue.classList.add("peak");
    node.append(residue);
  });
  const last = start + text.length - 1;
  if (last < length) node.append(element("span", { className: "edge", textContent: ` ${last}` }));
  return node;
};

// rows: lists of cells, the first of which is the row's heading.
const scoreTable = (headings, rows) => element("div", { className: "scroll" },
  element("table", { className: "scores" },
    element("thead", {}, element("tr", {}, ...headings.map((text, place) =>
      element("th", { scope: "col", className: place ? "n" : "", textContent: text })))),
    element("tbody", {}, ...rows.map(([first, ...others]) => element("tr", {},
      element("th", { scope: "row" }, first),
      ...others.map((value) => element("td", { className: "n" }, value)))))));
