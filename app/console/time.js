// Times and durations in words, and texts that count down.

import { fill } from './dom.js';

const SHORT = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const LONG = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

const isToday = (date) => date.toDateString() === new Date().toDateString();

/** An ISO time, or one in ms: short for today, with its day for any other. */
export function clock(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return '';
  return isToday(date) ? SHORT.format(date) : LONG.format(date);
}

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** How long until then, in words: "3 s", "4 min". */
export function until(at) {
  const s = Math.max(0, Math.ceil((at - Date.now()) / 1000));
  return s < 120 ? `${s} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}

const counting = new Map();

function tick() {
  for (const [node, [at, words]] of counting) {
    if (!node.isConnected && node.dataset.was) counting.delete(node);
    else fill(node, words(until(at)));
    if (node.isConnected) node.dataset.was = '1';
  }
  if (counting.size) setTimeout(tick, 500);
}

/** Keeps the text of `node` at `words("3 s")` for as long as it is in the page. */
export function countDown(node, at, words) {
  const isFirst = counting.size === 0;
  counting.set(node, [at, words]);
  fill(node, words(until(at)));
  if (isFirst) setTimeout(tick, 500);
  return node;
}
