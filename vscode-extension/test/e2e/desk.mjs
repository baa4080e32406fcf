// What a user does and sees in the workbench, by name.
import fs from "node:fs";
import path from "node:path";
import { sleep, until } from "./harness.mjs";

export class Desk {
  constructor(page, tree, shots) {
    this.page = page;
    this.tree = tree;
    this.shots = shots;
    page.setDefaultTimeout(20_000);
  }
  async open(url) {
    await this.page.goto(url);
    await this.page.waitForSelector(".monaco-workbench .explorer-folders-view", { timeout: 60_000 });
  }
  async picture(name) {
    await this.page.screenshot({ path: path.join(this.shots, `${name}.png`) });
  }
  read(name) {
    return fs.readFileSync(path.join(this.tree, name), "utf8");
  }
  async file(name) {
    const input = this.page.locator(".quick-input-widget input").first();
    const base = path.basename(name);
    // The list is filled bit by bit, and Enter takes what is marked at that moment.
    await until(async () => {
      await this.keys("Control+P");
      await input.waitFor({ state: "visible", timeout: 2_000 });
      await input.fill(name);
      const row = this.page.locator(".quick-input-list .monaco-list-row.focused", { hasText: base });
      await row.first().waitFor({ timeout: 3_000 });
      await this.keys("Enter");
      await this.page.locator(".tab.active", { hasText: base }).first().waitFor({ timeout: 3_000 });
      return true;
    }, `${name} in an editor`);
    await this.focusEditor();
  }
  async focusEditor() {
    await this.page.locator(".editor-instance .view-lines").first().click();
  }
  async keys(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }
  async type(text, delay = 15) {
    await this.page.keyboard.type(text, { delay });
  }
  async command(title) {
    const input = this.page.locator(".quick-input-widget input").first();
    // Not by Enter: what was used lately and has the same letters may stand above.
    const row = this.page.locator(".quick-input-list .monaco-list-row", { hasText: title }).first();
    // A key is lost while a webview takes or gives the focus, and another list may come in between.
    await until(
      async () => {
        await this.keys("F1");
        await input.fill(`>${title}`, { timeout: 2_000 });
        await row.click({ timeout: 3_000 });
        return true;
      },
      `${title} in the list of commands`,
      20_000,
    );
    const left = async () => !(await input.isVisible()) || (await input.inputValue()) !== `>${title}`;
    await until(left, "the list of commands is left");
  }
  /** What a list in the middle of the window offers. */
  rows() {
    return this.page.locator(".quick-input-list .monaco-list-row").allTextContents();
  }
  /** Ghost text as the user reads it: the spans of the first line, then the lines below. */
  ghost() {
    return this.page.evaluate(() => {
      const text = (root) =>
        [...root.querySelectorAll('[class*="ghost-text"]')]
          .filter((one) => !one.querySelector('[class*="ghost-text"]'))
          .map((one) => one.textContent)
          .join("");
      const first = [...document.querySelectorAll(".editor-instance .view-lines")].map(text).join("");
      const more = [...document.querySelectorAll(".editor-instance .suggest-preview-text .view-line")].map(text);
      return [first, ...more].join("\n").replace(/\u00a0/g, " ");
    });
  }
  async untilGhost(text, limitMs = 15_000) {
    let seen = "";
    await until(
      async () => {
        seen = await this.ghost();
        return typeof text === "string" ? seen === text : text.test(seen);
      },
      `ghost text ${JSON.stringify(String(text))}`,
      limitMs,
    ).catch((error) => {
      throw new Error(`${error.message}; seen ${JSON.stringify(seen)}`);
    });
  }
  editorText() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll(".editor-instance .view-lines")]
        .map((lines) =>
          [...lines.querySelectorAll(".view-line")]
            .sort((a, b) => Number.parseFloat(a.style.top) - Number.parseFloat(b.style.top))
            .map((line) => line.textContent.replace(/\u00a0/g, " "))
            .join("\n"),
        )
        .join("\n---\n"),
    );
  }
  async save() {
    await this.keys("Control+S");
    await this.page.locator(".tab.active.dirty").first().waitFor({ state: "hidden" });
  }
  /** A file that nobody is writing: the editor empties it before it writes. */
  async settled(name) {
    const before = this.read(name);
    await sleep(200);
    const now = this.read(name);
    return now !== "" && now === before ? now : this.settled(name);
  }
  statusBar() {
    return this.page.locator('.statusbar-item[id*="aicockpit"]').first();
  }
  async untilStatus(text, limitMs = 30_000) {
    await this.page
      .locator('.statusbar-item[id*="aicockpit"]', { hasText: text })
      .first()
      .waitFor({ timeout: limitMs })
      .catch(async (error) => {
        throw new Error(`${error.message}; the status bar says ${await this.statusBar().textContent()}`);
      });
  }
  /** Before a picture: no toasts, no terminal. */
  async clear() {
    if (await this.page.locator(".part.panel").first().isVisible()) await this.keys("Control+J");
    await this.command("Notifications: Clear All Notifications");
    await this.page.locator(".notification-toast").first().waitFor({ state: "hidden" });
  }
  /** The page of our webview view. */
  async chat() {
    return this.page.frameLocator('iframe.webview[src*="purpose=webviewView"]').first().frameLocator("#active-frame");
  }
  /** The page in an editor's tab. */
  async panel() {
    return this.page
      .frameLocator('iframe.webview:not([src*="purpose=webviewView"])')
      .first()
      .frameLocator("#active-frame");
  }
}
