// Where a message is written. What is typed is kept until it is sent, over reloads too.

import { fill, h } from './dom.js';
import * as kept from './kept.js';

const MOST_LINES = 10;
const MOST_CHARS = 100_000;
const NEW = 'new';
// On a screen keyboard Enter is how a line ends.
const isTouch = matchMedia('(pointer: coarse)').matches;

/** `actions`: {say(text), stop()}. */
export function mountComposer(form, store, actions) {
  let owner = null;
  const box = h('textarea', {
    id: 'message', rows: '2', maxlength: String(MOST_CHARS), placeholder: 'Describe an automation, or ask for a change', dir: 'auto',
    'aria-label': 'Message', 'aria-describedby': 'composer-hint', oninput: typed, onkeydown: pressed,
  });
  const send = h('button.main', { type: 'submit' }, 'Send');
  const stop = h('button.danger', { hidden: true, onclick: actions.stop }, 'Stop');
  const hint = h('p.hint', { id: 'composer-hint' });
  fill(form, box, h('div.buttons', null, hint, stop, send));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });

  function typed() {
    kept.keepDraft(owner ?? NEW, box.value);
    grow();
  }

  function grow() {
    box.rows = Math.max(2, Math.min(MOST_LINES, box.value.split('\n').length));
  }

  function pressed(event) {
    // Enter that ends the composing of a character is not meant for us.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || isTouch) return;
    event.preventDefault();
    submit();
  }

  function submit() {
    const text = box.value.trim();
    if (!text || send.disabled) return;
    put('');
    actions.say(text);
  }

  function put(text) {
    box.value = text;
    typed();
  }

  store.subscribe(({ session, connection, chat, outbox }) => {
    const id = session?.id ?? null;
    if (id !== owner || box.dataset.owner === undefined) {
      owner = id;
      box.dataset.owner = id ?? NEW;
      box.value = kept.draft(id ?? NEW);
      grow();
    }
    stop.hidden = chat.turns.size === 0;
    const isOver = connection.is === 'over' && connection.code !== 4409;
    box.disabled = send.disabled = isOver;
    const waiting = chat.unanswered.filter((one) => one.state === 'queued').length + outbox.length;
    const words = isOver ? 'This session takes no messages.'
      : waiting ? `${waiting} ${waiting === 1 ? 'message waits' : 'messages wait'} for ${waiting === 1 ? 'its' : 'their'} turn.`
      : chat.turns.size ? 'You can write on; it is answered afterwards.'
      : isTouch ? '' : 'Enter sends, Shift+Enter begins a new line.';
    if (hint.textContent !== words) hint.textContent = words;
  });

  return { put, focus: () => box.focus() };
}
