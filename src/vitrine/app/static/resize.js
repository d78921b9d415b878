// Center crop and antialiased bicubic resizing, as Pillow does them (ImageOps.fit): canvases resize otherwise.

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// For every output position: the first input position and the weights from there on.
function kernel(inSize, start, end, outSize) {
  const scale = (end - start) / outSize, stretch = Math.max(scale, 1), support = 2 * stretch;
  return Array.from({ length: outSize }, (_, position) => {
    const center = start + (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inSize, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => cubic((i + first - center + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

// Pixels are bytes, height x width x channels; one axis is resized at a time and rounded, as in Pillow.
function resizeAxis(pixels, outer, inSize, inner, table) {
  const outSize = table.length, result = new Uint8ClampedArray(outer * outSize * inner);
  for (let o = 0; o < outer; o++)
    for (let p = 0; p < outSize; p++) {
      const [first, weights] = table[p];
      for (let i = 0; i < inner; i++) {
        let sum = 0;
        for (let w = 0; w < weights.length; w++) sum += weights[w] * pixels[(o * inSize + first + w) * inner + i];
        result[(o * outSize + p) * inner + i] = Math.floor(sum + 0.5);
      }
    }
  return result;
}

// pixels: height x width x 3 bytes -> side x side x 3 bytes
export function fit(pixels, width, height, side) {
  const crop = Math.min(width, height), left = (width - crop) / 2, top = (height - crop) / 2;
  if (width !== side || left !== 0) pixels = resizeAxis(pixels, height, width, 3, kernel(width, left, left + crop, side));
  if (height !== side || top !== 0) pixels = resizeAxis(pixels, 1, height, 3 * side, kernel(height, top, top + crop, side));
  return new Uint8Array(pixels.buffer, pixels.byteOffset, side * side * 3);
}
