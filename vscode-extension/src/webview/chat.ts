/** The chat page's entry: everything is in `chat/`. */

import "./amber.css";
import "./chat/chat.css";
import "./chat/chips.css";
import "./chat/answer.css";
import "./chat/compose.css";
import "./chat/code.css";
import type { EditorApi } from "./chat/host";
import { startPage } from "./chat/page";

declare function acquireVsCodeApi(): EditorApi;

const root = document.getElementById("app");
if (root) startPage(root, acquireVsCodeApi());
