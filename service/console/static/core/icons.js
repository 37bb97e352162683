/** Icons as strokes of the text's colour. They are decoration: the control beside them has a name. */

import { html } from "./ui.js";

const PATHS = {
  teach: "M12 5v14M5 12h14",
  judge: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM20 20l-4-4",
  versions: "M12 8v4l3 2M12 21a9 9 0 1 0-8.5-6M3 21v-5h5",
  overview: "M4 20V10M10 20V4M16 20v-7M22 20H2",
  add: "M12 5v14M5 12h14",
  camera: "M4 8h3l2-3h6l2 3h3v11H4V8ZM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7Z",
  image: "M4 5h16v14H4V5ZM4 16l4.5-4.5 4 4 3-3L20 17M15.5 9.5h.01",
  folder: "M3 6h6l2 2h10v11H3V6Z",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.5 10 17 19 7",
  warn: "M12 4 2.5 20h19L12 4ZM12 10v4M12 17.2v.01",
  right: "M9 5l7 7-7 7",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  back: "M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  "theme-light": "M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M5.6 18.4 7 17M17 7l1.4-1.4M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z",
  "theme-dark": "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
  "theme-auto": "M12 3a9 9 0 1 0 0 18V3Zm0 0a9 9 0 0 1 0 18",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  unknown: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  out: "M14 4h5v16h-5M15 12H4M8 8l-4 4 4 4",
};

export const icon = (name) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
