/**
 * What every view uses to draw: Preact, htm and signals, as one module.
 *
 * The page is a function of its signals. `mount` draws it, and draws it again in the next frame after any signal that
 * it read has changed.
 */

import { Component, h, render } from "../vendor/preact.mjs";
import htm from "../vendor/htm.mjs";
import { batch, computed, effect, signal } from "../vendor/signals-core.mjs";

export { batch, Component, computed, effect, signal };

export const html = htm.bind(h);

/**
 * Draw a view into an element, now and after each change.
 * @param {() => unknown} view
 * @param {Element} root
 * @param {(error: unknown) => unknown} broken what is shown instead, once drawing has failed
 */
export function mount(view, root, broken) {
  let stop = () => {};
  let failed = false;
  const fail = (error) => {
    failed = true;
    console.error(error);
    root.replaceChildren(document.createElement("div")); // what was drawn half cannot be drawn over
    render(broken(error), root.firstChild);
  };
  const paint = () => {
    stop();
    if (failed) return;
    let fresh = true;
    stop = effect(() => {
      if (!fresh) {
        requestAnimationFrame(paint);
        return;
      }
      fresh = false;
      try {
        render(view(), root);
      } catch (error) {
        fail(error);
      }
    });
  };
  paint();
}

/** Names joined for `class`, without the false ones. */
export const classes = (...names) => names.filter(Boolean).join(" ");
