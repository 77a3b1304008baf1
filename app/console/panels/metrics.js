// Numbers of the bridge over the time that somebody looks: read from /metrics, kept in this page, drawn as lines.

import { h, s } from '../dom.js';

export const SAMPLE_MS = 5_000;
const [FEWEST, KEPT] = [24, 120];
const [WIDTH, HEIGHT] = [160, 36];
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const PREFIX = 'n8n_builder_';

/** Of Prometheus' text: a function that sums a metric's values, of those series that have `labels`. */
export function parse(text) {
  const series = [];
  for (const line of text.split('\n')) {
    const [, name, labels = '', value] = LINE.exec(line) ?? [];
    if (name) series.push({ name, value: Number(value), labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, is]) => [key, is])) });
  }
  return (name, labels = {}) => series.filter((one) => one.name === PREFIX + name && Object.entries(labels).every(([key, is]) => one.labels[key] === is))
    .reduce((sum, { value }) => sum + value, 0);
}

/** What is kept of one scrape, and whether a number only ever grows; of those the growth per minute is drawn. */
export const SHOWN = [
  { id: 'sessions', title: 'Live sessions', of: (sum) => sum('active_sessions') },
  { id: 'sockets', title: 'Open sockets', of: (sum) => sum('active_connections') },
  { id: 'turns', title: 'Running turns', of: (sum) => sum('active_turns') },
  { id: 'callbacks', title: 'Callbacks', grows: true, of: (sum) => sum('error_callbacks_total') },
  { id: 'published', title: 'Repairs published', grows: true, of: (sum) => sum('repairs_total', { outcome: 'published' }) },
  { id: 'open', title: 'Repairs failed or blocked', grows: true, of: (sum) => sum('repairs_total', { outcome: 'failed' }) + sum('repairs_total', { outcome: 'blocked' }) },
  { id: 'letters', title: 'Dead letters', grows: true, of: (sum) => sum('dead_letters_total') },
  { id: 'errors', title: 'Errors', grows: true, of: (sum) => sum('errors_total') },
];

const samples = [];

/** Adds what a scrape says now. */
export function take(text, at = Date.now()) {
  const sum = parse(text);
  samples.push({ at, values: Object.fromEntries(SHOWN.map(({ id, of }) => [id, of(sum)])) });
  samples.splice(0, Math.max(0, samples.length - KEPT));
}

/** One tile for each number. */
export function tiles() {
  return SHOWN.map(({ id, title, grows }) => {
    const now = samples.at(-1)?.values[id];
    const points = grows ? samples.slice(1).map((sample, i) => Math.max(0, sample.values[id] - samples[i].values[id]) * (60_000 / Math.max(1, sample.at - samples[i].at))) : samples.map((sample) => sample.values[id]);
    const shown = Number.isFinite(now) ? now.toLocaleString() : '–';
    const most = Math.max(0, ...points);
    const words = `${title}: ${shown}${grows ? ' since the start' : ''}; while this page looked at most ${Math.round(most)}${grows ? ' a minute' : ''}`;
    return h('li.tile', { dataset: { metric: id } }, h('p.title', null, title), h('p.number', null, shown, grows && h('span.hint', null, ' in all')), line(points, most, words));
  });
}

function line(points, most, words) {
  const x = (i) => WIDTH - ((points.length - 1 - i) * WIDTH) / (Math.max(FEWEST, points.length) - 1);
  const y = (value) => HEIGHT - 2 - (value / (most || 1)) * (HEIGHT - 6);
  const path = points.map((value, i) => `${i ? 'L' : 'M'}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join('');
  const area = points.length > 1 && s('path.area', { d: `${path}L${WIDTH} ${HEIGHT}L${x(0).toFixed(1)} ${HEIGHT}z` });
  return s('svg.spark', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': words, preserveAspectRatio: 'none' }, area, s('path.line', { d: path || 'M0 0' }));
}
