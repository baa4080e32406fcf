/** The frame of our pages: only our own script and styles run in it, and nothing is loaded from elsewhere. */

import { randomBytes } from "node:crypto";
import * as vscode from "vscode";

/** Fills a view with `dist/NAME.js` and `.css`; the script draws into `#app`. */
export function showPage(webview: vscode.Webview, extension: vscode.Uri, name: string, title: string): void {
  const dist = vscode.Uri.joinPath(extension, "dist");
  webview.options = { enableScripts: true, localResourceRoots: [dist] };
  const nonce = randomBytes(16).toString("base64url");
  const at = (file: string): string => webview.asWebviewUri(vscode.Uri.joinPath(dist, file)).toString();
  const own = webview.cspSource;
  const policy = [
    "default-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    `img-src ${own} data:`,
    `style-src ${own}`,
    `script-src 'nonce-${nonce}'`,
  ].join("; ");
  webview.html = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="${at(`${name}.css`)}">
<title>${title}</title>
</head>
<body>
<div id="app"></div>
<script nonce="${nonce}" src="${at(`${name}.js`)}"></script>
</body>
</html>`;
}
