/** The page of the panel "why slow, why nothing". */

import "./amber.css";
import "./panel/panel.css";
import "./panel/bar.css";
import { startPanel } from "./panel/app";
import type { PanelApi } from "./panel/state";

declare function acquireVsCodeApi(): PanelApi;

const root = document.getElementById("app");
if (root !== null) startPanel(root, acquireVsCodeApi(), window);
