/** A style sheet that esbuild bundles beside the script: `import "./chat/chat.css"` gives `dist/chat.css`. */
declare module "*.css";
