// Questions to the person, as modal dialogs of the browser's own: focus, Escape and the way back are its work.

import { fill, h } from './dom.js';

/**
 * Asks, and gives the text that was typed (`''` where there is no field), `null` for "no", `false` for the `other` way.
 *
 * @param field {label, value?, type?, hint?}
 */
export function ask({ title, text, field, yes = 'OK', other, danger = false }) {
  return new Promise((resolve) => {
    let answer = null;
    let input = null;
    const submit = (event) => {
      event.preventDefault();
      answer = input ? input.value.trim() : '';
      dialog.close();
    };
    const given = field && [
      h('label', { for: 'asked' }, field.label),
      h('input', { id: 'asked', type: field.type ?? 'text', value: field.value ?? '', autocomplete: 'off', spellcheck: 'false', maxlength: '512', required: true, ref: (made) => (input = made) }),
    ];
    const buttons = h('div.buttons', null,
      other && h('button.danger', { onclick: () => { answer = false; dialog.close(); } }, other),
      h('button.quiet', { onclick: () => dialog.close() }, 'Cancel'),
      h(danger ? 'button.danger' : 'button.main', { type: 'submit' }, yes));
    const dialog = h('dialog', { 'aria-labelledby': 'asked-title', onclose: () => { dialog.remove(); resolve(answer); } },
      h('form', { onsubmit: submit }, h('h2', { id: 'asked-title' }, title), text && h('p', null, text), given, buttons));
    document.body.append(dialog);
    dialog.showModal();
    input?.select();
  });
}

const SEEN_MS = 6000;
const MOST_AT_ONCE = 3;
let due = [];
let timer = 0;

/** Says something to who does not look, and shows it for a while to who does. */
export function announce(text, { seen = false } = {}) {
  const region = document.getElementById('announcer');
  // What is said within one frame is said together: the last would be all that is heard.
  const isFirst = due.length === 0;
  due = [...due, { text: text.slice(0, 300), seen }].slice(-MOST_AT_ONCE);
  if (!isFirst) return;
  region.textContent = '';
  requestAnimationFrame(() => {
    fill(region, due.map((one) => one.text).join(' '));
    region.classList.toggle('seen', due.some((one) => one.seen));
    due = [];
    clearTimeout(timer);
    timer = setTimeout(() => region.classList.remove('seen'), SEEN_MS);
  });
}
