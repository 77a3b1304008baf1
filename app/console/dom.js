// Elements, built one by one. Text goes in as text, so there is nothing here that could become HTML.

const SVG = 'http://www.w3.org/2000/svg';
const LINKS = /^(https?:|mailto:|#|\.?\/(?!\/)|health$|readyz$)/i;
// What turns the order of a text around, and control characters: shown by their number, never obeyed.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;

// Chromium takes minutes to lay out a hundred kilobytes without a space, such as a file in an error message.
const UNBROKEN = /\S{200}(?=\S)/gu;
const NAME_CHARS = 200;
const BRIEF_CHARS = 1000;

/** Text as it may be shown. */
export function visible(text) {
  const shown = String(text);
  return shown.replace(HIDDEN, (c) => `\u27e8U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}\u27e9`);
}

/**
 * An element. `h('button.quiet', {onclick, 'aria-label': 'Close', hidden: false}, 'Close')`
 *
 * Functions are listeners, `false`, `null` and `undefined` leave an attribute out, `dataset` is an object, `ref` gets the
 * element. Children are elements, texts, lists of both, or nothing.
 */
export function h(name, attributes, ...children) {
  return build(document.createElement(...split(name)), name, attributes, children);
}

/** As `h`, in SVG. */
export function s(name, attributes, ...children) {
  return build(document.createElementNS(SVG, ...split(name)), name, attributes, children);
}

/** Puts `children` in place of what is in `parent`. */
export function fill(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

/** A name that others chose, kept short, and from changing the direction of the words around it. */
export const name = (text) => h('bdi', null, cut(String(text), NAME_CHARS));

/** Where it is told what went wrong, aloud too. */
export const alarm = (...words) => h('p.problem', { role: 'alert' }, words);

/** A link out of this page. */
export const away = (href, ...words) => h('a', { href, target: '_blank', rel: 'noopener noreferrer' }, words);

/** A part that is moved by the keyboard too, where it is wider or higher than its place. */
export const scrolls = (label, ...content) => h('div.scrolls', { tabindex: '0', role: 'group', 'aria-label': label }, content);

/** As much of a text as a card shows that leads to all of it. */
export const brief = (text) => (text == null ? text : cut(String(text), BRIEF_CHARS));

const cut = (text, chars) => (text.length > chars ? `${text.slice(0, chars)}\u2026` : text);

function split(selector) {
  return [selector.split('.')[0]];
}

function build(element, selector, attributes, children) {
  const classes = selector.split('.').slice(1).join(' ');
  if (classes) element.setAttribute('class', classes);
  // One that sends a form says so.
  if (element.localName === 'button') element.type = 'button';
  for (const [key, value] of Object.entries(attributes ?? {})) set(element, key, value);
  element.append(...nodes(children));
  return element;
}

function set(element, key, value) {
  if (value === undefined || value === null || value === false) return;
  if (key === 'ref') value(element);
  else if (key === 'dataset') Object.assign(element.dataset, value);
  else if (typeof value === 'function') element.addEventListener(key.replace(/^on/, ''), value);
  else if (key === 'value') element.value = value;
  else if (/^on|^style$|^srcdoc$|^src$/i.test(key)) throw new Error(`${key} is not set as text`);
  else if (key === 'href' && !LINKS.test(value)) element.setAttribute('title', visible(value));
  else element.setAttribute(key, value === true ? '' : key === 'title' || key === 'aria-label' ? visible(value) : value);
}

function nodes(children) {
  return children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== true)
    .flatMap((c) => (c instanceof Node ? c : breakable(visible(c))));
}

const breakable = (text) => text.replace(UNBROKEN, '$&\0').split('\0').flatMap((piece, i) => (i ? [document.createElement('wbr'), piece] : piece));
