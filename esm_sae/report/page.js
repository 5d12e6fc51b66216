"use strict";
// What the scripts of all pages use; it stands before them in the one script of a page.

// All text from the data goes in as text nodes: headers are never parsed as HTML.
const element = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const number = (value) =>
  value === null || value === undefined ? "–"
    : value === 0 ? "0"
    : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(3)));
const percent = (value) =>
  value === 0 ? "0%" : value < 0.001 ? "<0.1%" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

const tool = (text, label, act) => {
  const button = element("button", { type: "button", textContent: text, title: label });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
};
const svg = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
const cell = (className, ...children) => element("td", { className }, ...children);
const dim = (textContent) => element("span", { className: "dim", textContent });
const stat = (label, value) =>
  element("div", {}, element("dt", { textContent: label }), element("dd", { textContent: value }));
const section = (title, remark, ...content) =>
  [element("h3", {}, title, " ", element("small", { textContent: remark })), ...content];
const proteinTitle = (name, accession) =>
  accession === null ? element("b", { textContent: name })
    : element("a", {
      href: `https://www.uniprot.org/uniprotkb/${accession}/entry`,
      target: "_blank", rel: "noopener noreferrer", textContent: name,
    });
