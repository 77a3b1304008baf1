// How far the bridge may go, as a row of buttons: nothing happens on the way from one to another.

import { fill, h } from '../dom.js';

export const AUTONOMIES = ['observe', 'suggest', 'ask', 'auto'];

/**
 * @param words what each step means, by step.
 * @param set called with the step that was chosen; a promise whose refusal is told in place.
 * @returns {node, show(step)}
 */
export function dial(label, words, set) {
  const hint = h('p.hint');
  const problem = h('p.problem', { role: 'alert' });
  let shown = null;
  const buttons = AUTONOMIES.map((step) => h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => choose(step) }, step));

  async function choose(step) {
    const before = shown;
    if (step === before) return;
    show(step);
    fill(problem);
    try {
      await set(step);
    } catch (error) {
      show(before);
      fill(problem, `It stays at \u201c${before}\u201d: ${error.message}`);
    }
  }

  function show(step) {
    shown = step;
    buttons.forEach((button, i) => button.setAttribute('aria-pressed', String(AUTONOMIES[i] === step)));
    fill(hint, words[step]);
  }

  return { node: h('div.dial', null, h('div.steps-of', { role: 'group', 'aria-label': label }, buttons), hint, problem), show };
}
