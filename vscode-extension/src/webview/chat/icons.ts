/** The pictures: strokes in a box of 16 by 16, in the colour of the text around them. No font to load. */

const PATHS = {
  send: "M8 13V3M4 7l4-4 4 4",
  stop: "M4.5 4.5h7v7h-7z",
  close: "M4 4l8 8M12 4l-8 8",
  edit: "M3 13l.6-3L10.5 3l2.5 2.5L6 12.4 3 13z",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  done: "M3 8.5l3.5 3.5L13 4.5",
  apply: "M8 2.5v6M5 5.5h6M5 12.5h6",
  insert: "M3 3v10M6 8h7M10 5l3 3-3 3",
  run: "M2.5 3h11v10h-11zM5 6l2 2-2 2M8.5 10.5H11",
  retry: "M12.8 8.5A5 5 0 1 1 11.5 4.4M12 2v3H9",
  remove: "M3 4.5h10M6 4V2.5h4V4M4.5 4.5l.6 9h5.8l.6-9",
  search: "M10.2 10.2L14 14M11.5 7a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0z",
  back: "M9.5 3.5L5 8l4.5 4.5",
  down: "M8 3v10M4 9l4 4 4-4",
  export: "M8 10V2.5M5 5l3-2.5L11 5M3 9v4.5h10V9",
  file: "M4 2h5l3 3v9H4zM9 2v3h3",
  folder: "M2 4h4l1.5 1.5H14V13H2z",
  selection: "M3 4h7M3 8h10M3 12h5",
  symbol: "M6 3C4 3 5 7 3 8c2 1 1 5 3 5M10 3c2 0 1 4 3 5-2 1-1 5-3 5",
  problems: "M8 2.5L14 13H2zM8 6.5v3M8 11v.6",
  terminal: "M2.5 3h11v10h-11zM5 6l2 2-2 2M8.5 10.5H11",
  docs: "M3 3c2-.7 3.7-.3 5 .8 1.3-1.1 3-1.5 5-.8v9.5c-2-.7-3.7-.3-5 .8-1.3-1.1-3-1.5-5-.8zM8 3.8v9.5",
  image: "M2.5 3h11v10h-11zM2.5 11l3.5-4 3 3.5 1.5-1.5 3 2.5M10.5 5.8h.4",
  folderWarm:
    "M8 14c-2.5 0-4-1.6-4-3.7C4 7.5 7 6.5 7 2.5c2.5 1.2 3 3 2.8 4.5.7-.3 1-.8 1.2-1.3 1 1.2 1 2.6 1 4.6C12 12.4 10.5 14 8 14z",
} as const;

export type IconName = keyof typeof PATHS;

const SVG = "http://www.w3.org/2000/svg";

/** Decoration: its button or row has the words. */
export function icon(name: IconName): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "picture");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
