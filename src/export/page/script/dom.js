// DOM helpers. Names from the application are only ever set as text or as the value of an
// attribute: no markup is made from data.

const byId = (id) => document.getElementById(id);

const SVG = 'http://www.w3.org/2000/svg';

/** Creates an element. `text` is its text, functions are event listeners, the rest attributes. */
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith('svg:') ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (typeof value === 'function') element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text if it has changed, which keeps a selection and avoids a layout. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of `parent` match `items`. Elements with known keys keep their state. */
function sync(parent, items, keyOf, create, update) {
  const known = parent.children_by_key ?? new Map();
  const now = new Map();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const element = known.get(key) ?? create(item);
    now.set(key, element);
    if (at === element) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
    update(element, item);
  }
  for (const [key, element] of known) if (now.get(key) !== element) element.remove();
  parent.children_by_key = now;
}

/**
 * Creates the element of a name from the application. Its writing direction is isolated from its
 * neighbours, and a line may break between the parts of a path.
 */
function named(text, attributes = {}) {
  const parts = text.split(/(?<=\/|::)(?=[^/:])/).flatMap((part, i) => (i ? [make('wbr'), part] : [part]));
  return make('bdi', { class: 'name', ...attributes }, ...parts);
}
