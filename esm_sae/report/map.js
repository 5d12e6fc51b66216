// A map of dots on a canvas, and what is chosen on it.
//
// points: { x, y }; layers(selected, hues): what is drawn, from back to front, each { fill, radius,
// opacity, wanted(index) }, with a colour or the name of one of the page's; names(selected): pairs
// of a dot and its name on the map, the foremost first; at(selected): the dot to look at;
// describe(index): the lines of a dot's tip; choose(index): a dot was clicked, or Enter pressed on
// it. Returns { select, draw }: select(what) shows what was chosen, null for nothing.
const dotMap = ({ points, layers, names, at, describe, choose }) => {
  const canvas = document.getElementById("map");
  const tip = document.getElementById("tip");
  const context = canvas.getContext("2d");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const total = points.x.length;
  const [MARGIN, FARTHEST, REACH, MOVED] = [14, 64, 14, 5];
  // Of equal lightness to the eye, on white and on black.
  const HUES = {
    light: ["#1f77b4", "#d95f02", "#2a9134", "#c8372d", "#8457c4", "#8c564b", "#d24b9e", "#97940b", "#0f9fb3"],
    dark: ["#6bb1ec", "#ff9d4d", "#63cf6f", "#ff7f74", "#b794f4", "#c99a8e", "#f58ac6", "#d3d05a", "#4fd3e6"],
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const bounds = (axis) => points[axis].reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const middle = (axis) => (bounds(axis)[0] + bounds(axis)[1]) / 2;
  const spans = ["x", "y"].map((axis) => Math.max(bounds(axis)[1] - bounds(axis)[0], 1));
  const home = { zoom: 1, x: middle("x"), y: middle("y") };

  let view = { ...home };
  let selected = null;
  let hovered = null;
  let held = null;
  let named = null;

  const hues = () => (dark.matches ? HUES.dark : HUES.light);
  const scale = () => view.zoom * Math.min(
    (canvas.clientWidth - 2 * MARGIN) / spans[0], (canvas.clientHeight - 2 * MARGIN) / spans[1]);
  const place = (index) => [
    canvas.clientWidth / 2 + (points.x[index] - view.x) * scale(),
    canvas.clientHeight / 2 - (points.y[index] - view.y) * scale(),
  ];

  const draw = () => {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const density = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    context.setTransform(density, 0, 0, density, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [ink, card] = ["--ink", "--card"].map(colour);
    const factor = scale();
    const growth = Math.min(1 + Math.log2(view.zoom) / 3, 2.5);
    const [left, top] = [width / 2 - view.x * factor, height / 2 + view.y * factor];
    for (const { fill, radius, opacity, wanted } of layers(selected, hues())) {
      const size = radius * growth;
      context.fillStyle = fill.startsWith("--") ? colour(fill) : fill;
      context.globalAlpha = opacity;
      context.beginPath();
      for (let index = 0; index < total; index++) {
        if (!wanted(index)) continue;
        const [x, y] = [left + points.x[index] * factor, top - points.y[index] * factor];
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        context.moveTo(x + size, y);
        context.arc(x, y, size, 0, 7);
      }
      context.fill();
    }
    context.globalAlpha = 1;
    labels(ink, card);
    if (hovered !== null) ring(hovered, ink);
  };

  const ring = (index, ink) => {
    const [x, y] = place(index);
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 7, 0, 7);
    context.stroke();
  };

  // A name that would cover one before it is left out.
  const labels = (ink, card) => {
    const taken = [];
    context.font = "600 12px system-ui, sans-serif";
    context.lineJoin = "round";
    for (const [index, text] of names(selected)) {
      const [x, y] = place(index);
      const box = [x + 6, y - 18, x + 10 + context.measureText(text).width, y - 2];
      const covered = taken.some((other) =>
        box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
      if (covered) continue;
      taken.push(box);
      context.strokeStyle = card;
      context.lineWidth = 4;
      context.strokeText(text, x + 8, y - 6);
      context.fillStyle = ink;
      context.fillText(text, x + 8, y - 6);
    }
  };

  const nearest = (event) => {
    const frame = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const factor = scale();
    const [wantedX, wantedY] = [
      view.x + (x - frame.width / 2) / factor, view.y - (y - frame.height / 2) / factor];
    const distance = (index) => (points.x[index] - wantedX) ** 2 + (points.y[index] - wantedY) ** 2;
    let best = null;
    let least = (REACH / factor) ** 2;
    // A second tap is never quite on the spot of the first.
    if (event.pointerType === "touch" && named !== null && distance(named) < least) return named;
    for (let index = 0; index < total; index++) {
      const away = distance(index);
      if (away < least) [best, least] = [index, away];
    }
    return best;
  };

  const point = (index) => {
    if (index !== hovered) {
      hovered = index;
      draw();
    }
    tip.hidden = index === null;
    if (index === null) return;
    const [x, y] = place(index);
    const [title, ...lines] = describe(index);
    tip.replaceChildren(element("b", { textContent: title }),
      ...lines.map((line) => element("div", { textContent: line })));
    const right = x > canvas.clientWidth / 2;
    tip.style.left = right ? "auto" : `${canvas.offsetLeft + x + 14}px`;
    tip.style.right = right ? `${canvas.parentElement.clientWidth - canvas.offsetLeft - x + 14}px` : "auto";
    tip.style.top = `${canvas.offsetTop + Math.max(y - 20, 4)}px`;
  };

  const look = (next) => {
    const zoom = Math.min(Math.max(next.zoom, 1), FARTHEST);
    view = zoom === 1 ? { ...home } : { ...next, zoom };
    canvas.classList.toggle("near", zoom > 1);
    nearer.disabled = zoom === FARTHEST;
    farther.disabled = whole.disabled = zoom === 1;
    point(null);
    draw();
  };
  const zoomBy = (factor) => look({ ...view, zoom: view.zoom * factor });
  const nearer = tool("+", "Zoom in", () => zoomBy(2));
  const farther = tool("−", "Zoom out", () => zoomBy(0.5));
  const whole = tool("Whole map", "Show the whole map", () => look(home));
  document.getElementById("zoom").append(nearer, farther, whole);

  canvas.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, y: event.clientY, view, moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held !== null && event.buttons) {
      const [right, down] = [event.clientX - held.x, event.clientY - held.y];
      held.moved ||= Math.hypot(right, down) > MOVED;
      if (held.moved && view.zoom > 1) {
        look({ ...view, x: held.view.x - right / scale(), y: held.view.y + down / scale() });
        return;
      }
    }
    point(nearest(event));
  });
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") point(null);
  });
  canvas.addEventListener("click", (event) => {
    const moved = held?.moved;
    held = null;
    if (moved) return;
    const index = nearest(event);
    // A finger cannot hover: the first tap names a dot, the second opens its cluster.
    const touched = event.pointerType === "touch" && index !== named;
    named = index;
    point(index);
    if (touched || index === null) return;
    choose(index);
  });
  canvas.addEventListener("dblclick", (event) => {
    const frame = canvas.getBoundingClientRect();
    const factor = scale();
    look({
      zoom: view.zoom * 2,
      x: view.x + (event.clientX - frame.left - frame.width / 2) / factor / 2,
      y: view.y - (event.clientY - frame.top - frame.height / 2) / factor / 2,
    });
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const direction = ARROWS[event.key];
    if (direction !== undefined) walk(direction);
    else if (event.key === "Enter" && hovered !== null) choose(hovered);
    else if (event.key === "+") zoomBy(2);
    else if (event.key === "-") zoomBy(0.5);
    else return;
    // The page's own arrow keys go through the table.
    event.stopPropagation();
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => point(null));
  // To the nearest dot within 45 degrees of the direction; those straight ahead count as nearer.
  const walk = ([right, up]) => {
    if (hovered === null) {
      reach((selected === null ? null : at(selected)) ?? 0);
      return;
    }
    let best = null;
    let least = Infinity;
    for (let index = 0; index < total; index++) {
      const [x, y] = [points.x[index] - points.x[hovered], points.y[index] - points.y[hovered]];
      const [along, across] = [x * right + y * up, Math.abs(x * up) + Math.abs(y * right)];
      const away = along * along + 2 * across * across;
      if (along > 0 && across <= along && away < least) [best, least] = [index, away];
    }
    if (best !== null) reach(best);
  };
  const reach = (index) => {
    if (view.zoom > 1) look({ ...view, x: points.x[index], y: points.y[index] });
    point(index);
  };
  dark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  look(home);

  const select = (what) => {
    selected = what;
    const index = what === null ? null : at(what);
    if (index !== null && view.zoom > 1) look({ ...view, x: points.x[index], y: points.y[index] });
    else draw();
  };
  return { select, draw, hues };
};
