// Documentation: a folder is sent and indexed, a chat question about it cites where the answer stands.
import fs from "node:fs";
import path from "node:path";
import { sleep, until } from "../harness.mjs";

const PAGES = {
  "guide/kettles.md":
    "# Kettles\n\n## Descaling\n\nA brass kettle is descaled with vinegar of five per cent, left for twenty minutes.\n",
  "guide/pots.md": "# Pots\n\nPots of cast iron are dried at once and oiled.\n",
  "README.txt": "All about the kitchen.\n",
};

export default async function play({ desk, server, workbench, step }) {
  const page = desk.page;
  const input = page.locator(".quick-input-widget input").first();
  await step("a folder becomes documentation", async () => {
    const folder = path.join(workbench.run, "kitchen");
    for (const [name, text] of Object.entries(PAGES)) {
      fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
      fs.writeFileSync(path.join(folder, name), text);
    }
    await desk.command("AiCockpit: Add Documentation");
    await page.locator(".quick-input-list .monaco-list-row", { hasText: "Folder" }).first().click();
    await until(async () => (await input.inputValue()).startsWith("/"), "the question for a folder");
    // The dialog may still be on its way to the folder that it begins with: it says the last word.
    await until(async () => {
      if ((await input.inputValue()) !== `${folder}/`) await input.fill(`${folder}/`);
      await sleep(400);
      return (await input.inputValue()) === `${folder}/` && (await desk.rows()).some((row) => row.startsWith("guide"));
    }, "what is in the folder");
    await page.locator(".quick-input-widget .monaco-button", { hasText: "Add" }).first().click();
    await until(async () => (await input.inputValue()) === "kitchen", "the question for a name");
    await input.press("Enter");
    const told = page.locator(".notification-toast", { hasText: "“kitchen” is ready: 3 pages" }).first();
    await told.waitFor({ timeout: 30_000 });
    await desk.picture("docs-added");
    await told.hover();
    await told.getByRole("button", { name: /Clear Notification/ }).click();
  });
  await step("a question with @docs cites it", async () => {
    await desk.command("AiCockpit: New Chat");
    const chat = await desk.chat();
    const box = chat.locator("textarea").first();
    await box.click();
    await box.pressSequentially("how is a kettle descaled @docs:kit", { delay: 20 });
    await chat
      .getByRole("option", { name: /kitchen/ })
      .first()
      .waitFor();
    await desk.keys("Enter");
    await chat.locator(".composer .chip", { hasText: "kitchen" }).first().waitFor();
    await desk.keys("Enter");
    await chat.getByText("Vinegar of five per cent").first().waitFor();
    await chat.locator("a", { hasText: "[1] Kettles > Descaling" }).first().waitFor();
    await desk.picture("docs-cited");
  });
  await step("the list tells of it, and removing it asks once", async () => {
    await desk.command("AiCockpit: Manage Documentation");
    await page.locator(".quick-input-list .monaco-list-row", { hasText: "kitchen" }).first().click();
    await page.locator(".quick-input-list .monaco-list-row", { hasText: "Remove" }).first().waitFor();
    await desk.picture("docs-manage");
    await page.locator(".quick-input-list .monaco-list-row", { hasText: "Remove" }).first().click();
    await page.locator(".monaco-dialog-box .monaco-button", { hasText: "Remove" }).first().click();
    await until(async () => (await server.get("/api/docs")).docs.length === 0, "no documentation at the server");
    await page.locator(".quick-input-list .monaco-list-row", { hasText: "Add Documentation" }).first().waitFor();
    await desk.keys("Escape");
    await input.waitFor({ state: "hidden" });
  });
}
