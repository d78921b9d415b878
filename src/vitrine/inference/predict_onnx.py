"""Predict photographs with an exported system: python predict_onnx.py model.onnx PHOTO...

Requires onnxruntime, NumPy and Pillow (to read the files), but not Vitrine.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *photos: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vitrine"])
    side, names = about["decoding"]["photo_size_px"], about["display_names"]
    for photo in photos:
        with Image.open(photo) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        outputs = session.run(None, {"photos": np.asarray(square, dtype=np.uint8)[None]})
        by_name = dict(zip((output.name for output in session.get_outputs()), outputs, strict=True))
        answers, novelty = [], about["novelty"]  # scores above the threshold: none of the classes
        refused = novelty is not None and by_name["novelty"][0] > novelty["threshold"]
        for entry in about["label_space"]:
            task, probs = entry["task"], by_name[f"probs_{entry['task']}"][0]
            threshold = about["sure_thresholds"][task]
            sure = threshold is not None and probs.max() >= threshold and not refused
            answers.append(f"{task} {names[entry['labels'][probs.argmax()]]} {probs.max():.4f}{'' if sure else ' ?'}")
        print(f"{photo}: {'none of these; nearest: ' if refused else ''}{', '.join(answers)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
