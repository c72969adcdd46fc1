"""List the commands that use a model on pictures, or take one in and give it out."""

from __future__ import annotations

from flows.catalog.shared import (
    COMPUTE,
    IMPORTED,
    MODEL,
    MODEL_AND_TARGET,
    MODEL_FORMS,
    NAMED,
    PICTURES,
    PICTURES_HELP,
    SIZES,
    TWO_PICTURES,
)
from flows.commands import stages, use
from flows.terminal import options
from flows.terminal.command import Command, Positional

USE_COMMANDS: dict[str, Command] = {
    "reconstruct": Command(
        use.reconstruct,
        "Encode and decode pictures.",
        positionals=(
            MODEL,
            Positional(PICTURES, PICTURES_HELP, "name at least one picture file or folder after the model"),
        ),
        options=options.ReconstructOptions,
        settings=("training.device", *NAMED),
        base="model",
        examples=("reconstruct champion picture.png --out reconstructions", "reconstruct 3 path/to/pictures --out out"),
    ),
    "interpolate": Command(
        use.interpolate,
        "Decode latents between those of two pictures.",
        about="The frames are on the straight line between the two latents, and both ends are reconstructions. What is "
        "between shows how smooth the decoder is, and is no picture of the data.",
        positionals=(
            MODEL,
            *[Positional("PICTURE", "a picture file; both are of one size", TWO_PICTURES)] * 2,
        ),
        options=options.InterpolateOptions,
        settings=("training.device", *NAMED),
        base="model",
        extra="interpolate takes one model and two picture files",
        examples=("interpolate champion a.png b.png --out between", "interpolate 3 a.png b.png --frames 30 --out out"),
    ),
    "sample": Command(
        use.sample,
        "Decode noise, or draws from the posteriors of pictures.",
        about="An autoencoder makes no new pictures: that needs a diffusion model trained on its latents. Without "
        "pictures, it decodes noise of the latents' mean and deviation, which a diffusion model begins with. With "
        "pictures, it decodes draws from their posteriors, which training sees.",
        positionals=(MODEL, Positional(f"[{PICTURES}]", PICTURES_HELP)),
        options=options.SampleOptions,
        settings=("training.device", *NAMED),
        base="model",
        examples=("sample champion picture.png --out samples", "sample champion --count 8 --seed 1 --out noise"),
    ),
    "encode": Command(
        stages.encode,
        "Store the latents of pictures for a diffusion trainer.",
        about="Parquet files that `datasets` loads, of both sides of the set, with captions and the scaling factor. By "
        "default of the pictures that the model was trained on.",
        positionals=(MODEL,),
        options=options.EncodeOptions,
        settings=("data", "evaluation.batch_size", "model.channels", *COMPUTE, *NAMED),
        base="model",
        examples=("encode champion --out latents", "encode 3 --data.source path/to/pictures --logvar"),
    ),
    "import": Command(
        use.import_,
        "Register published weights as a version.",
        about="Folders and files of diffusers, LDM or the tutorial, or the hub. No code in a file is run.",
        positionals=(
            Positional(
                "PATH",
                "a folder or file of weights, or hub:ORG/NAME",
                "name one folder or file of weights, or hub:ORG/NAME",
            ),
        ),
        settings=IMPORTED,
        examples=("import vae.ckpt", "import hub:stabilityai/sd-vae-ft-mse"),
    ),
    "export": Command(
        use.export,
        "Write a model as a folder or a file for other programs.",
        about="A folder is what diffusers loads; a file has LDM's names, as ComfyUI and A1111 read it.",
        positionals=(
            Positional(
                "MODEL",
                MODEL_FORMS,
                MODEL_AND_TARGET,
            ),
            Positional(
                "DIR|FILE.safetensors",
                "a new folder, or a new file",
                MODEL_AND_TARGET,
            ),
        ),
        settings=("registry.model_name", "evaluation.batch_size", *SIZES, *COMPUTE),
        extra="export takes one model and one new folder or file",
        examples=("export champion path/to/new/folder", "export champion vae.safetensors"),
    ),
    "half-safe": Command(
        use.half_safe,
        "Write a copy of a model that stays finite in fp16.",
        about="Layers that come near fp16's largest number on the pictures are rescaled by powers of two, and the next "
        "layers take it back: the reconstructions stay the same to the error that is printed. Nothing is written if no "
        "layer is too large, or if rescaling does not help.",
        positionals=(
            MODEL,
            Positional(PICTURES, PICTURES_HELP, "name at least one picture file or folder after the model"),
        ),
        options=options.HalfSafeOptions,
        settings=(*COMPUTE, *NAMED),
        base="model",
        examples=(
            "half-safe champion path/to/pictures --out vae-fp16",
            "half-safe path/to/vae picture.png --out vae-fp16",
        ),
    ),
}
