/** The map of what spoke for the label, painted over the picture. */

import { Component, html } from "../core/ui.js";
import { t } from "../core/i18n.js";

const COLOUR = [255, 82, 32];
const STRONGEST = 190;
const FAINT = 0.2; // what lies below is noise on most pictures

export class Heat extends Component {
  keep = (canvas) => {
    this.canvas = canvas;
  };

  componentDidMount() {
    this.paint();
  }

  componentDidUpdate() {
    this.paint();
  }

  paint() {
    const { rows, columns, values } = this.props.map;
    this.canvas.width = columns;
    this.canvas.height = rows;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    const flat = values.flat();
    for (let index = 0; index < rows * columns; index += 1) {
      image.data.set([...COLOUR, Math.round((STRONGEST * Math.max(0, flat[index] - FAINT)) / (1 - FAINT))], index * 4);
    }
    context.putImageData(image, 0, 0);
  }

  render({ label }) {
    return html`<canvas class="heat" ref=${this.keep} role="img" aria-label=${t("heat.label", { label })}></canvas>`;
  }
}
