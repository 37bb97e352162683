/** Pictures that come from outside: dropped anywhere on the page, pasted, or chosen in a file dialog. */

import { html, signal } from "./ui.js";
import { problemOf } from "./api.js";
import { say } from "./state.js";
import { fromFiles, fromTransfer } from "../pictures/read.js";

/** Which target a drag is over: "page", the id of a class, or null. */
export const dragged = signal(null);

/**
 * Called when pictures are dropped on the page or pasted, it returns what takes them once they are read. Each view sets
 * its own.
 */
let takerNow = null;
export function takePictures(taker) {
  takerNow = taker;
}

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Pass on what was read, or say why it could not be read. */
async function deliver(intake, take) {
  try {
    take(await intake);
  } catch (error) {
    say(problemOf(error).words);
  }
}

/** Listen on the whole window, so that a picture dropped beside a target is not opened by the browser. */
export function listenForPictures() {
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (!event.target.closest?.("[data-drop]")) dragged.value = "page";
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dragged.value = null;
  });
  addEventListener("drop", (event) => {
    dragged.value = null;
    if (!hasFiles(event) || event.defaultPrevented) return;
    event.preventDefault();
    if (takerNow) deliver(fromTransfer(event.dataTransfer), takerNow());
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || !takerNow) return;
    event.preventDefault();
    deliver(fromFiles(files), takerNow());
  });
}

/**
 * What makes an element a target of its own.
 * @param {string | number} name
 * @param {(intake: import("../pictures/read.js").Intake) => void} take
 */
export const dropTarget = (name, take) => ({
  "data-drop": name,
  onDragOver: (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dragged.value = name;
  },
  onDrop: (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dragged.value = null;
    deliver(fromTransfer(event.dataTransfer), take);
  },
});

/** A button that opens a file dialog. */
export function FileButton({ take, folder, accept = "image/*,.tif,.tiff,.bmp,.zip", capture, children, kind = "", multiple = true, name }) {
  const chosen = (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    if (files.length) deliver(fromFiles(files), take);
  };
  return html`<label class=${`button ${kind}`}>
    <input
      type="file"
      class="hidden"
      multiple=${multiple}
      accept=${folder ? undefined : accept}
      webkitdirectory=${Boolean(folder)}
      capture=${capture}
      aria-label=${name}
      onChange=${chosen}
    />
    ${children}
  </label>`;
}
