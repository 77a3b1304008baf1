// A workflow as a picture: nodes where n8n has them, and an arrow for each connection. Names go in as text only.

import { s, visible } from '../dom.js';

const NODE = 96;
const STEP = 220;
const MARGIN = 54;
const LABEL = 64;
const LINE_CHARS = 16;
const SMALLEST = 0.54;
const TRIGGER = /trigger$|\.webhook$/i;
const STICKY = 'n8n-nodes-base.stickyNote';
let made = 0;

/** @param failing name of the node that fails, if any. */
export function graph({ nodes = [], connections = {} }, failing) {
  const notes = nodes.filter((node) => node.type === STICKY).map(noteBox);
  const steps = nodes.filter((node) => node.type !== STICKY).map(box);
  // Made by a program that gave them no places of their own: side by side then.
  if (new Set(steps.map(({ x, y }) => `${x} ${y}`)).size < steps.length) steps.forEach((one, i) => Object.assign(one, { x: STEP * i, y: 0 }));
  const boxes = new Map(steps.map((one) => [one.name, one]));
  const all = [...boxes.values(), ...notes];
  const left = Math.min(...all.map((one) => one.x)) - MARGIN;
  const top = Math.min(...all.map((one) => one.y)) - MARGIN / 2;
  const width = Math.max(...all.map((one) => one.x + one.w)) + MARGIN - left;
  const height = Math.max(...all.map((one) => one.y + one.h + (one.note ? 0 : LABEL))) + MARGIN / 2 - top;
  const arrow = `arrow-${++made}`;
  const head = s('marker', { id: arrow, viewBox: '0 0 10 10', refX: 9, refY: 5, markerWidth: 12, markerHeight: 12, markerUnits: 'userSpaceOnUse', orient: 'auto' }, s('path.head', { d: 'M0 0 10 5 0 10z' }));
  const lines = links(connections).filter(({ from, to }) => boxes.has(from) && boxes.has(to))
    .map((link) => s(link.kind === 'main' ? 'path.link' : 'path.link.part', { d: way(link, boxes), 'marker-end': `url(#${arrow})` }));
  const picture = s('svg.graph', { viewBox: `${left} ${top} ${width} ${height}`, role: 'img', 'aria-label': inWords(boxes, connections, failing) },
    s('defs', null, head), notes.map(drawNote), lines, [...boxes.values()].map((one) => drawNode(one, one.name === failing)));
  // As wide as there is room, between legible and life-size.
  Object.assign(picture.style, { minWidth: `${width * SMALLEST}px`, maxWidth: `${width}px` });
  return picture;
}

const number = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);

function box({ name, type = '', position = [], disabled }) {
  return { name, type, disabled, x: number(position?.[0], 0), y: number(position?.[1], 0), w: NODE, h: NODE };
}

function noteBox({ parameters = {}, position = [] }) {
  const { content = '', width, height } = parameters;
  return { note: String(content), x: number(position?.[0], 0), y: number(position?.[1], 0), w: number(width, 240), h: number(height, 160) };
}

/** `[{from, to, kind, output, outputs}]` of n8n's `{source: {kind: [[{node, …}], …]}}`. */
export function links(connections) {
  return Object.entries(connections ?? {}).flatMap(([from, kinds]) =>
    Object.entries(kinds ?? {}).flatMap(([kind, outputs]) =>
      (outputs ?? []).flatMap((targets, output) => (targets ?? []).map((target) => ({ from, to: target.node, kind, output, outputs: outputs.length })))));
}

function way({ from, to, kind, output, outputs }, boxes) {
  const [a, b] = [boxes.get(from), boxes.get(to)];
  if (kind !== 'main') {
    // A part of another node, its model or its memory say, hangs below it.
    const [x1, y1, x2, y2] = [a.x + NODE / 2, a.y, b.x + NODE / 2, b.y + NODE];
    return `M${x1} ${y1}C${x1} ${y1 - 60} ${x2} ${y2 + 60} ${x2} ${y2}`;
  }
  const [x1, y1, x2, y2] = [a.x + NODE, a.y + (NODE * (output + 1)) / (outputs + 1), b.x, b.y + NODE / 2];
  if (x2 > x1) {
    const bend = Math.max(40, (x2 - x1) / 2);
    return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  }
  const below = Math.max(a.y, b.y) + NODE + LABEL;
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${x1 + 90} ${y1} ${x1 + 90} ${below} ${middle} ${below}S${x2 - 90} ${y2} ${x2} ${y2}`;
}

function drawNode(one, fails) {
  const { name, type, x, y, disabled } = one;
  const round = TRIGGER.test(type) ? 44 : 12;
  const shape = `M${x + round} ${y}H${x + NODE - 12}q12 0 12 12V${y + NODE - 12}q0 12-12 12H${x + round}q${-round} 0${-round} ${-round}V${y + round}q0 ${-round} ${round} ${-round}z`;
  const label = lines(name).map((line, i) => s('tspan', { x: x + NODE / 2, y: y + NODE + 24 + 21 * i }, line));
  const mark = fails && s('g.mark', null, s('circle', { cx: x + NODE - 4, cy: y + 4, r: 15 }), s('text', { x: x + NODE - 4, y: y + 11 }, '!'));
  return s(`g.node${fails ? '.fails' : ''}${disabled ? '.off' : ''}`, { 'data-node': name },
    s('title', null, `${name} (${type.split('.').pop()})${fails ? ', failing' : ''}${disabled ? ', switched off' : ''}`),
    s('path.shape', { d: shape }), s('text.sign', { x: x + NODE / 2, y: y + NODE / 2 + 10 }, initials(type)), s('text.name', null, label), mark);
}

function drawNote({ note, x, y, w, h }) {
  return s('g.note', null, s('rect', { x, y, width: w, height: h, rx: 8 }), s('text', { x: x + 14, y: y + 30 }, note.split('\n')[0].slice(0, Math.floor(w / 10))));
}

/** `httpRequest` → HR. */
function initials(type) {
  const word = type.split('.').pop();
  const second = /[A-Z]/.exec(word.slice(1).replace(/Trigger$/, ''));
  return (word.slice(0, 1) + (second ?? word.slice(1, 2))).toUpperCase();
}

function lines(name) {
  const words = visible(name).split(/\s+/);
  const found = [''];
  for (const word of words) {
    if (found.at(-1) && found.at(-1).length + word.length >= LINE_CHARS) found.push(word);
    else found[found.length - 1] += (found.at(-1) ? ' ' : '') + word;
  }
  const cut = found.slice(0, 2).map((line) => (line.length > LINE_CHARS ? `${line.slice(0, LINE_CHARS - 1)}…` : line));
  if (found.length > 2 && !cut[1].endsWith('…')) cut[1] += '…';
  return cut;
}

function inWords(boxes, connections, failing) {
  const steps = links(connections).slice(0, 30).map(({ from, to }) => `${from} to ${to}`);
  const alarm = failing && boxes.has(failing) ? ` ${failing} fails.` : '';
  return `Graph of ${boxes.size} node${boxes.size === 1 ? '' : 's'}.${alarm} ${steps.length ? `${steps.join(', ')}.` : [...boxes.keys()].slice(0, 30).join(', ')}`;
}
