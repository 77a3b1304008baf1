// The operators' view.

import { fill, h } from '../dom.js';

/** Gives a function that takes it away again. */
export function mount(root) {
  fill(root, h('h2', null, 'Operations'), h('p.hint', null, 'The brake, dead letters and checks stand here.'));
  return () => root.replaceChildren();
}
