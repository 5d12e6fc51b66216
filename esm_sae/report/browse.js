// Browsing a table: search, filter, sort, rows drawn in pages, one opened beside it (or over it on
// a small screen) with its number in the address.
//
// name: what a row is, as in the address "#name-7"; first: number of the first row; total: how many
// there are; texts: what is searched; columns: values to sort by, null where there is none;
// sort: { key, down } at first; ascending: keys whose low values come first; accepts(index): the
// filters of the toolbar; reset(): undoes them; cells(index): of a row; panel(index):
// { title, content } of an opened one; listed(order) and marked(index or null): told of every
// change. An index counts from 0 whatever the number of the first row.
const browseTable = ({
  name, first = 0, total, texts, columns, sort, ascending = [name], accepts, reset, cells, panel,
  listed = () => {}, marked = () => {},
}) => {
  const PAGE = 150;
  const body = document.querySelector("table.browser tbody");
  const search = document.getElementById("search");
  const toolbar = document.querySelector(".toolbar");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const none = document.getElementById("none");
  const detail = document.getElementById("detail");
  const sorters = [...document.querySelectorAll("[data-sort]")];
  const sortBox = document.getElementById("sort");
  const beside = window.matchMedia("(min-width: 70rem)");

  let order = [];
  let drawn = 0;
  let opened = null;

  const select = () => {
    const wanted = search.value.trim().toLowerCase();
    const exact = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) - first : null;
    const words = wanted.split(/\s+/).filter(Boolean);
    order = [];
    for (let index = 0; index < total; index++) {
      if (!accepts(index)) continue;
      if (index === exact || words.every((word) => texts[index].includes(word))) order.push(index);
    }
    const column = columns[sort.key];
    const direction = sort.down ? -1 : 1;
    order.sort((one, other) => {
      if (exact !== null && (one === exact || other === exact)) return one === exact ? -1 : 1;
      const [a, b] = [column[one], column[other]];
      // Those without a value come last in both directions.
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      return direction * (a - b) || one - other;
    });
    body.replaceChildren();
    drawn = 0;
    draw();
    count.textContent = `${order.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    none.hidden = order.length > 0 || total === 0;
    listed(order);
  };

  const draw = () => {
    const next = order.slice(drawn, drawn + PAGE);
    body.append(...next.map(row));
    drawn += next.length;
    more.hidden = drawn >= order.length;
    more.textContent = `Show more (${(order.length - drawn).toLocaleString("en")} left)`;
  };

  const row = (index) => {
    const button = element("button", { type: "button", textContent: index + first });
    button.setAttribute("aria-label", `Open ${name} ${index + first}`);
    const line = element("tr", {}, element("td", { className: "n" }, button), ...cells(index));
    line.dataset[name] = index;
    line.classList.toggle("open", index === opened);
    return line;
  };
  const numberOf = (line) => Number(line.dataset[name]);

  const setSort = (key, down) => {
    sort = { key, down };
    showSort();
    select();
  };
  const showSort = () => {
    for (const button of sorters) {
      const heading = button.parentElement;
      if (button.dataset.sort === sort.key) {
        heading.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      } else heading.removeAttribute("aria-sort");
    }
    if (sortBox !== null) sortBox.value = sort.key;
  };
  const firstDown = (key) => !ascending.includes(key);

  const render = (index) => {
    const { title, content } = panel(index);
    const heading = element("h2", { id: "detail-title", tabIndex: -1, textContent: title });
    const close = tool("Close", "Close (Escape)", leave);
    close.className = "close";
    detail.replaceChildren(
      element("header", {}, heading, element("div", { className: "tools" },
        tool("←", `Previous ${name} (left arrow)`, () => step(-1)),
        tool("→", `Next ${name} (right arrow)`, () => step(1)), close)),
      ...content);
    detail.hidden = false;
    detail.scrollTop = 0;
    return heading;
  };
  const open = (index, focus) => {
    opened = index;
    for (const line of body.children) line.classList.toggle("open", numberOf(line) === index);
    const heading = render(index);
    document.body.classList.toggle("reading", !beside.matches);
    marked(index);
    if (focus) heading.focus({ preventScroll: true });
  };
  const shut = () => {
    const line = [...body.children].find((node) => numberOf(node) === opened);
    detail.hidden = true;
    opened = null;
    document.body.classList.remove("reading");
    for (const node of body.children) node.classList.remove("open");
    marked(null);
    line?.querySelector("button").focus({ preventScroll: true });
  };
  const leave = () => {
    history.replaceState(null, "", "#browse");
    shut();
  };
  const go = (index) => {
    const address = `#${name}-${index + first}`;
    if (location.hash === address) follow();
    else location.hash = address;
  };
  const step = (by) => {
    const at = order.indexOf(opened) + by;
    if (at >= 0 && at < order.length) go(order[at]);
  };
  const follow = () => {
    const found = new RegExp(`^#${name}-(\\d+)$`).exec(location.hash);
    const index = found ? Number(found[1]) - first : -1;
    if (index >= 0 && index < total) open(index, true);
    // Over the list an opened one is all there is to see: Back, which takes its address away, shuts it.
    else if (opened !== null && !beside.matches) shut();
  };

  body.addEventListener("click", (event) => go(numberOf(event.target.closest("tr"))));
  document.addEventListener("keydown", (event) => {
    if (opened === null || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("input, select")) return;
    if (event.key === "Escape") leave();
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  for (const button of sorters) {
    const key = button.dataset.sort;
    button.addEventListener("click", () => setSort(key, sort.key === key ? !sort.down : firstDown(key)));
    sortBox?.append(element("option", { value: key, textContent: button.textContent }));
  }
  search.addEventListener("input", select);
  toolbar.addEventListener("change", (event) => {
    if (event.target === sortBox) setSort(sortBox.value, firstDown(sortBox.value));
    else if (event.target !== search) select();
  });
  more.addEventListener("click", draw);
  document.getElementById("clear").addEventListener("click", () => {
    search.value = "";
    reset();
    select();
    search.focus();
  });
  beside.addEventListener("change", () =>
    document.body.classList.toggle("reading", opened !== null && !beside.matches));
  window.addEventListener("hashchange", follow);

  showSort();
  select();
  follow();
  if (opened === null && beside.matches && order.length) open(order[0], false);
  return go;
};
