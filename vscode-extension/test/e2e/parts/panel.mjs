// Why slow, why nothing.
export default async function play({ desk, step, assert }) {
  await step("the panel tells each request's time", async () => {
    await desk.command("AiCockpit: Why Slow, Why Nothing");
    const panel = desk.page.frameLocator("iframe.webview").last().frameLocator("#active-frame");
    await panel.locator("li.row").first().waitFor({ timeout: 20_000 });
    assert.ok((await panel.locator("li.row").count()) >= 5);
    await panel.locator("li.row .head").first().click();
    await panel.locator(".details").first().waitFor();
    await desk.picture("panel");
    await desk.keys("Control+W");
  });
}
