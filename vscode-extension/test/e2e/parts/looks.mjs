// Pictures for people: dark theme, high contrast, a narrow side bar.
const THEMES = { dark: ["Dark Modern", ".vs-dark"], contrast: ["Dark High Contrast", ".hc-black"] };

export default async function play({ desk, step, assert }) {
  const { page } = desk;
  const openChat = async () => {
    await desk.command("AiCockpit: Open Chat");
    const chat = await desk.chat();
    await chat.locator("textarea").first().waitFor();
    return chat;
  };
  for (const [name, [theme, sign]] of Object.entries(THEMES)) {
    await step(`looks: ${name}`, async () => {
      await desk.clear();
      await desk.command("Preferences: Color Theme");
      await page.locator(".quick-input-widget input").first().fill(theme);
      await page.locator(".quick-input-list .monaco-list-row.focused", { hasText: theme }).first().waitFor();
      await desk.keys("Enter");
      await page.locator(`.monaco-workbench${sign}`).first().waitFor();
      await openChat();
      await desk.picture(`chat-${name}`);
      await desk.command("AiCockpit: Why Slow, Why Nothing");
      await (await desk.panel()).locator("li.row").first().waitFor();
      await desk.picture(`panel-${name}`);
      await desk.keys("Control+W");
    });
  }
  await step("looks: narrow", async () => {
    const chat = await openChat();
    const width = () => chat.locator("body").evaluate((body) => body.clientWidth);
    const sash = await page.locator(".part.sidebar").boundingBox();
    await page.mouse.move(sash.x + sash.width, 400);
    await page.mouse.down();
    await page.mouse.move(sash.x + 220, 400, { steps: 4 });
    await page.mouse.up();
    await page.mouse.move(900, 700); // the border between them is lit under the mouse
    await desk.picture("chat-narrow");
    assert.ok((await width()) <= 240, `${await width()} pixels`);
    assert.ok(
      await chat.locator("body").evaluate((body) => body.scrollWidth <= body.clientWidth),
      "nothing sticks out",
    );
  });
}
