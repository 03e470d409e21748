"""External networks come from torchvision, timm or a Python function.

| `source` | required key | named weights |
|---|---|---|
| `torchvision` | `model`, a name of `torchvision.models.list_models()` | `IMAGENET1K_V1`, `DEFAULT`, ... |
| `timm` | `model`, a name of `timm.list_models()` | timm's tag, such as `a1_in1k` |
| `python` | `factory` | `factory`: as the function returns them |

With every source, `weights` may also be `trained`, `random`, `random_raw`, `class_only`, `logits_only`,
or a file. For `random` and `trained`, the network's own code draws the initial weights.

- Arguments: torchvision and timm get the `num_classes` of the data, unless `arguments` contains another
  number or `weights` is the name of published weights. A factory gets only `arguments`. Arguments that
  make a library load a file or an address, such as `pretrained` and `checkpoint_path`, are refused.
- Weight files: safetensors, or PyTorch files, which are read with `weights_only`. If tensors are
  missing, unknown or of another shape, or contain NaN or infinite values, Stitch Sweep lists them and
  runs nothing. BatchNorm's `num_batches_tracked` may be missing, and `_orig_mod.` is removed from names.
  16-bit values are converted to float32 exactly, 64-bit values are rounded.
- Input: a network gets the data set's image, resized to the network's `image_size` and normalized as in
  its training. Resizing is linear interpolation with antialiasing, without a crop. For a network with
  color input, a gray image is repeated in all channels. Layer -1 is the data set's image for all
  networks.
- Layers: the names in `layers`; without this key, those in the network's attribute `layer_names`;
  without both, `auto`. `auto` uses the output of every block. A block is an outermost module that
  contains parallel paths. Outside of blocks, `auto` uses every convolution and linear layer, after its
  normalization and activation.
- Cutting: torch.fx traces the network, so each half runs only its own operations. A `forward` that
  branches on values can't be traced; Stitch Sweep then cuts it with forward hooks. Such a cut is allowed
  where both halves together equal the network bit for bit, on noise and on some images. A branch of
  `forward` that these inputs don't reach is not checked. Running the second half of such a cut takes as
  long as running the whole network.
- Shapes: maps with channels last are converted to [C, H, W]. Sequences must have the images on the
  first axis: [B, T, D], not [T, B, D].
- Heads: a receiver must have one logit for each class of the data. A network with other outputs can
  only be a sender; it can't be a teacher, and its `sender_accuracy` is empty.
- Checks: a network must be on the CPU with float32 parameters, return the same logits in two runs, and
  change none of its tensors in eval mode. A cell is refused if the network's `forward` blocks the
  gradient there (`detach()`). Two findings only print a note: outputs that all lie between 0
  and 1 (they may be probabilities instead of logits), and gradients that are all 0.
"""  # noqa: E501
