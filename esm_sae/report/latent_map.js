// The map of latents, and how it is coloured. latents: columns of the page's data; choose(latent): a
// dot was chosen. Returns { select, list }: select(latent or null), list(those in the table).
const latentMap = (latents, choose) => {
  // Where no latent has a place, the page has no map.
  if (document.getElementById("map") === null) return { select: () => {}, list: () => {} };
  const dots = latents.latent.filter((latent) => latents.x[latent] !== null);
  const dotOf = new Map(dots.map((latent, dot) => [latent, dot]));
  const colourings = [
    ["kind", "kind of name", (latent) => latents.kind[latent], "no name"],
    ["cluster", "cluster of directions", (latent) => {
      const cluster = latents.decoderCluster[latent];
      return cluster === null || cluster < 0 ? null : `cluster ${cluster}`;
    }, "in no cluster"],
    ["again", "other seed", (latent) => latents.again[latent], "not compared"],
    ["taxonomic", "taxonomic", (latent) => (latents.taxonomic[latent] ? latents.taxon[latent] : null), "not taxonomic"],
    ["memory", "memory", (latent) => (latents.memory[latent] ? "90% in one family" : null), "less, or on under 3 proteins"],
  ].filter(([, , of]) => dots.some((latent) => of(latent) !== null));
  const colour = document.getElementById("colour");
  colour.append(...colourings.map(([value, title]) => element("option", { value, textContent: title })));
  let groups = [];
  let groupOf = [];
  let inList = new Set(latents.latent);
  const regroup = () => {
    const found = colourings.find(([value]) => value === colour.value);
    const texts = dots.map((latent) => found?.[2](latent) ?? null);
    const sizes = new Map();
    for (const text of texts) if (text !== null) sizes.set(text, (sizes.get(text) ?? 0) + 1);
    groups = [...sizes].sort(([one, a], [other, b]) => b - a || (one < other ? -1 : 1));
    groupOf = texts.map((text) => (text === null ? -1 : groups.findIndex(([group]) => group === text)));
    const others = texts.length - groups.slice(0, 9).reduce((sum, [, size]) => sum + size, 0);
    const rest = groups.length > 9 ? "the rest" : found?.[3];
    const entries = [...groups.slice(0, 9), ...(others && rest ? [[rest, others]] : [])];
    document.getElementById("legend").replaceChildren(...entries.map(([text, size], place) => {
      const swatch = element("i");
      swatch.style.background = place < Math.min(groups.length, 9) ? map.hues()[place] : "var(--soft)";
      return element("li", {}, swatch, text, " ", dim(size.toLocaleString("en")));
    }));
  };
  const layers = (selected, hues) => {
    const of = (fill, radius, opacity, wanted) => ({ fill, radius, opacity, wanted });
    const both = (fill, radius, member) => [
      of(fill, radius, 0.16, (dot) => member(dot) && !inList.has(dots[dot])),
      of(fill, radius, 0.8, (dot) => member(dot) && inList.has(dots[dot]))];
    const chosen = (dot) => dots[dot] === selected;
    return [
      ...both("--soft", 2, (dot) => groupOf[dot] < 0 || groupOf[dot] >= hues.length),
      ...hues.slice(0, groups.length).flatMap((hue, place) => both(hue, 3, (dot) => groupOf[dot] === place)),
      ...(selected === null ? [] : [of("--card", 7, 1, chosen), of("--hot", 5, 1, chosen)]),
    ];
  };
  const titleOf = (latent) => latents.label[latent] ?? `latent ${latent}`;
  const map = dotMap({
    points: { x: dots.map((latent) => latents.x[latent]), y: dots.map((latent) => latents.y[latent]) },
    layers,
    names: (selected) => (dotOf.has(selected) ? [[dotOf.get(selected), titleOf(selected)]] : []),
    at: (selected) => dotOf.get(selected) ?? null,
    describe: (dot) => {
      const latent = dots[dot];
      const score = latents.score[latent];
      return [titleOf(latent), `latent ${latent}${score === null ? "" : `, score ${score.toFixed(2)}`}`,
        `${percent(latents.proteinDensity[latent])} of proteins`];
    },
    choose: (dot) => choose(dots[dot]),
  });
  const recolour = () => {
    regroup();
    map.draw();
  };
  colour.addEventListener("change", recolour);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  recolour();
  return {
    select: map.select,
    list: (order) => {
      inList = new Set(order);
      map.draw();
    },
  };
};
