// Figures as they are written: percent, metric names, times.

const KINDS = { recall: "Recall", map: "mAP", recall_subset: "R_subset", hits: "Hits" };

export function metricName(name) {
  const [kind, k] = name.split("@");
  return k ? `${KINDS[kind] || kind}@${k}` : name;
}

export const percent = (fraction) => (100 * fraction).toFixed(2);

export const spread = (bounds) => (bounds?.length ? ` ±${(50 * (bounds[1] - bounds[0])).toFixed(1)}` : "");

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export const when = (iso) => (iso ? new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "");

export const STAGES = {
  image_only: "reference image only", text_only: "modification text only", image_text_sum: "image + text",
  coarse: "imagined and fused", verified: "verified", compared: "compared",
};

export const isOver = (state) => ["finished", "failed", "cancelled"].includes(state);
