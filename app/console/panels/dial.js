// How far the bridge may go, as a row of buttons: nothing happens on the way from one to another, and what is shown as
// set is set.

import { alarm, fill, h } from '../dom.js';

export const AUTONOMIES = ['observe', 'suggest', 'ask', 'auto'];

/**
 * @param words what each step means, by step.
 * @param set called with the step that was chosen; a promise whose refusal is told in place.
 * @returns {node, show(step)}
 */
export function dial(label, words, set) {
  const hint = h('p.hint');
  const problem = alarm();
  let shown = null;
  const buttons = AUTONOMIES.map((step) => h('button', { 'aria-pressed': 'false', onclick: () => choose(step) }, step));

  const node = h('div.dial', null, h('div.steps-of', { role: 'group', 'aria-label': label }, buttons), hint, problem);

  async function choose(step) {
    if (step === shown || node.ariaBusy) return;
    node.ariaBusy = 'true';
    fill(problem);
    fill(hint, `Setting “${step}” …`);
    try {
      await set(step);
      show(step);
    } catch (error) {
      show(shown);
      fill(problem, `It stays at “${shown}”: ${error.message}`);
    }
    node.ariaBusy = null;
  }

  function show(step) {
    shown = step;
    node.dataset.step = step;
    buttons.forEach((button, i) => button.setAttribute('aria-pressed', String(AUTONOMIES[i] === step)));
    fill(hint, words[step]);
  }

  return { node, show };
}
