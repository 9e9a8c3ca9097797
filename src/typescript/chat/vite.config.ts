import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The backend in development and in the browser test; nginx does the same in the image.
const backend = process.env.CHAT_BACKEND ?? "http://127.0.0.1:8080";
const proxy = {
  "/api": { target: backend, rewrite: (path: string) => path.replace(/^\/api/, "") },
};

export default defineConfig({
  plugins: [react()],
  server: { proxy },
  preview: { proxy },
  test: { environment: "jsdom", include: ["src/**/*.test.{ts,tsx}"] },
});
