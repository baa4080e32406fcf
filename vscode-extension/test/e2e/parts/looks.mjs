// Pictures for people: dark theme, high contrast, a narrow side bar.
import fs from "node:fs";

const THEMES = { dark: "Dark Modern", contrast: "Default High Contrast" };

export default async function play({ desk, workbench, step }) {
  const file = `${workbench.data}/User/settings.json`;
  for (const [name, theme] of Object.entries(THEMES)) {
    await step(`looks: ${name}`, async () => {
      const settings = JSON.parse(fs.readFileSync(file, "utf8"));
      fs.writeFileSync(file, JSON.stringify({ ...settings, "workbench.colorTheme": theme }));
      await desk.page.locator(name === "dark" ? ".monaco-workbench.vs-dark" : ".monaco-workbench.hc-black").waitFor();
      await desk.command("AiCockpit: Open Chat");
      const chat = await desk.chat();
      await chat.locator("textarea").first().waitFor();
      await desk.picture(`chat-${name}`);
      await desk.command("AiCockpit: Why Slow, Why Nothing");
      const panel = desk.page.frameLocator("iframe.webview").last().frameLocator("#active-frame");
      await panel.locator("li.row").first().waitFor();
      await desk.picture(`panel-${name}`);
      await desk.keys("Control+W");
    });
  }
  await step("looks: narrow", async () => {
    await desk.page.setViewportSize({ width: 520, height: 800 });
    await desk.command("AiCockpit: Open Chat");
    await (await desk.chat()).locator("textarea").first().waitFor();
    await desk.picture("chat-narrow");
  });
}
