// Markdown as elements. A parser (vendor/marked.js) says what the text is; elements are made here, from a short list, with
// texts that stay texts. HTML in it is shown as it was written.

import { away, h, scrolls } from './dom.js';
import { Lexer } from './vendor/marked.js';

const LONGEST_CHARS = 100_000;
// What a person writes has fewer of these in a paragraph; the parser compares each with those before it.
const MOST_EMPHASIS = 300;
const EMPHASIS = /[_*~]/g;
// Quotes in quotes, lists in lists: the parser calls itself for each.
const TOO_DEEP = /^(?:(?:>|\+|\d+[.)]) ?){100}/m;
const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' };
const SAFE_LINK = /^(https?:|mailto:)/i;

/**
 * Shows a text that may still grow in `root`. `update(text, isWhole)` makes anew only what has changed, so an answer that
 * streams keeps its elements, and what somebody has selected in them.
 */
export function growing(root) {
  let shown = [];
  let settled = 0;
  let settledBlocks = 0;

  return function update(text, isWhole) {
    if (text.length > LONGEST_CHARS) {
      root.replaceChildren(h('pre', null, text));
      return;
    }
    // What was said later changes the last blocks only. In the end all of it is read once more, for what refers back.
    if (isWhole || text.length < settled) settled = settledBlocks = 0;
    const tokens = lex(text.slice(settled));
    const kept = shown.slice(0, settledBlocks);
    const next = tokens.map((token, i) => {
      const old = shown[settledBlocks + i];
      return old?.raw === token.raw && old.type === token.type ? old : { raw: token.raw, type: token.type, node: element(token) };
    });
    shown = [...kept, ...next];
    const nodes = shown.map((one) => one.node).filter(Boolean);
    nodes.forEach((node, i) => root.childNodes[i] !== node && root.insertBefore(node, root.childNodes[i] ?? null));
    while (root.childNodes.length > nodes.length) root.lastChild.remove();
    if (!isWhole && next.length > 2) {
      for (const { raw } of next.slice(0, -2)) settled += raw.length;
      settledBlocks += next.length - 2;
    }
  };
}

/** Shows as it was written what it would take seconds to read. */
class BoundedLexer extends Lexer {
  inlineTokens(source, tokens = []) {
    if (!(source.match(EMPHASIS)?.length > MOST_EMPHASIS)) return super.inlineTokens(source, tokens);
    tokens.push(asWritten(source));
    return tokens;
  }
}

function lex(text) {
  try {
    if (!TOO_DEEP.test(text)) return new BoundedLexer({ gfm: true }).lex(text);
  } catch {
    // Not to be read: shown as it is.
  }
  return [{ type: 'paragraph', raw: text, text, tokens: [asWritten(text)] }];
}

const asWritten = (text) => ({ type: 'text', raw: text, text, escaped: true });

function element(token) {
  const made = block(token);
  return made === null || made instanceof Node ? made : h('p', { dir: 'auto' }, made);
}

const all = (tokens) => (tokens ?? []).map(block);

function block(token) {
  switch (token.type) {
    case 'space':
    case 'def':
      return null;
    case 'heading':
      // Below the headings of the page itself.
      return h(`h${Math.min(token.depth + 2, 6)}`, null, all(token.tokens));
    case 'paragraph':
      return h('p', { dir: 'auto' }, all(token.tokens));
    case 'blockquote':
      return h('blockquote', null, all(token.tokens));
    case 'list':
      return h(token.ordered ? 'ol' : 'ul', { start: token.ordered && token.start !== 1 && token.start }, token.items.map(block));
    case 'list_item':
      return h('li', { dir: 'auto' }, all(token.tokens));
    case 'checkbox':
      return token.checked ? '☑ ' : '☐ ';
    case 'table':
      return table(token);
    case 'code':
      return h('pre', { tabindex: '0', dir: 'ltr' }, h('code', null, token.text));
    case 'hr':
      return h('hr');
    case 'br':
      return h('br');
    case 'strong':
    case 'em':
    case 'del':
      return h(token.type, null, all(token.tokens));
    case 'codespan':
      return h('code', { dir: 'ltr' }, token.text);
    case 'link':
      return link(token);
    case 'image':
      // Nothing is fetched from elsewhere because somebody wrote its address.
      return link({ href: token.href, tokens: [{ type: 'text', text: token.text || token.href, escaped: true }] });
    case 'text':
      return token.tokens ? all(token.tokens) : token.escaped ? token.text : plain(token.text);
    case 'escape':
      return token.text;
    default:
      return token.raw;
  }
}

function link({ href, tokens }) {
  const inside = all(tokens);
  if (!SAFE_LINK.test(href)) return inside;
  return away(href, inside);
}

function table({ header, rows }) {
  const cell = (tag) => (one) => h(tag, { class: one.align && `to-${one.align}`, dir: 'auto' }, all(one.tokens));
  const body = h('tbody', null, rows.map((row) => h('tr', null, row.map(cell('td')))));
  const table = h('table', null, h('thead', null, h('tr', null, header.map(cell('th')))), body);
  return scrolls('Table', table);
}

function plain(text) {
  return text.replace(/&(?:#(\d{1,6})|#x([\da-f]{1,5})|(\w{2,5}));/gi, (whole, decimal, hex, named) => {
    if (named) return ENTITIES[named] ?? whole;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 31 && code < 0x110000 ? String.fromCodePoint(code) : whole;
  });
}
