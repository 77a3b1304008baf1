// Differences of workflows: found where the bridge has not told them, and shown side by side, one table per node.

import { h, name } from '../dom.js';
import { links } from './graph.js';

const WORD = /[\p{L}\p{N}]/u;
const PARTS = ['name', 'settings'];

/** What leads from one workflow to the other, as the bridge tells it: `[{node, change, path, before, after}]`. */
export function differences(before, after) {
  const found = [];
  const add = (node) => (path, left, right) => found.push({ node, change: left == null ? 'added' : right == null ? 'removed' : 'changed', path, before: left ?? null, after: right ?? null });
  for (const [old, now] of pairs(before.nodes ?? [], after.nodes ?? [])) leaves(old, now, '', add((now ?? old).name));
  const [old, now] = [outputs(before), outputs(after)];
  for (const key of new Set([...old.keys(), ...now.keys()])) {
    const [left, right] = [old.get(key) ?? [], now.get(key) ?? []];
    const [node, path] = JSON.parse(key);
    for (const target of left) if (!right.includes(target)) add(node)(path, target, null);
    for (const target of right) if (!left.includes(target)) add(node)(path, null, target);
  }
  for (const part of PARTS) leaves(before[part] ?? {}, after[part] ?? {}, part, add(null));
  return found;
}

// Nodes of the same name, else of the same id (renamed), else alone.
function pairs(old, now) {
  const names = new Set(now.map((node) => node.name));
  const left = old.filter((node) => !names.has(node.name));
  const found = now.map((node) => {
    const same = old.find((one) => one.name === node.name);
    const renamed = same ? -1 : left.findIndex((one) => one.id && one.id === node.id);
    return [same ?? (renamed < 0 ? null : left.splice(renamed, 1)[0]), node];
  });
  return [...found, ...left.map((node) => [node, null])];
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const sorted = (value) => (isObject(value) ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])])) : Array.isArray(value) ? value.map(sorted) : value);
const isSame = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));

function leaves(before, after, path, add) {
  const comparable = [before, after].every(Array.isArray) && before.length === after.length && [...before, ...after].every((one) => one && typeof one === 'object');
  if (isObject(before) && isObject(after)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) leaves(before[key], after[key], path ? `${path}.${key}` : key, add);
  } else if (comparable) {
    before.forEach((one, i) => leaves(one, after[i], `${path}[${i}]`, add));
  } else if (!isSame(before ?? null, after ?? null)) {
    add(path, before, after);
  }
}

function outputs(workflow) {
  const found = new Map();
  for (const { from, to, kind, output } of links(workflow.connections)) {
    const key = JSON.stringify([from, `connections.${kind}[${output}]`]);
    found.set(key, [...(found.get(key) ?? []), to]);
  }
  return found;
}

/** @param sides what the two columns are called. */
export function diffView(entries, sides = ['Before', 'After']) {
  const owners = new Map();
  for (const entry of entries) owners.set(entry.node, [...(owners.get(entry.node) ?? []), entry]);
  return h('div.diff', null, [...owners].map(([node, own]) => h('table', null,
    h('caption', null, node === null ? 'The workflow' : name(node)),
    h('thead', null, h('tr', null, sides.map((side) => h('th', { scope: 'col' }, side)))),
    own.map(({ path, before, after }) => h('tbody', null,
      path && h('tr', null, h('th.path', { colspan: '2', scope: 'rowgroup' }, h('code', null, path))),
      h('tr', null, marked(before, after).map((cell, i) => h('td', { class: i ? 'new' : 'old' }, cell))))))));
}

const asText = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));

// What both sides begin and end with is not marked.
function marked(before, after) {
  if (before === null || after === null) {
    const shown = (value, tag) => (value === null ? h('span.hint', null, 'not there') : h('pre', null, h(tag, null, asText(value))));
    return [shown(before, 'del'), shown(after, 'ins')];
  }
  const [one, other] = [[...asText(before)], [...asText(after)]];
  const shorter = Math.min(one.length, other.length);
  let start = 0;
  while (start < shorter && one[start] === other[start]) start++;
  let end = 0;
  while (end < shorter - start && one.at(-1 - end) === other.at(-1 - end)) end++;
  // Whole words: half of one is hard to read.
  while (start && WORD.test(one[start - 1])) start--;
  while (end && WORD.test(one[one.length - end])) end--;
  const cell = (chars, tag) => h('pre', null, chars.slice(0, start).join(''), h(tag, null, chars.slice(start, chars.length - end).join('')), chars.slice(chars.length - end).join(''));
  return [cell(one, 'del'), cell(other, 'ins')];
}
