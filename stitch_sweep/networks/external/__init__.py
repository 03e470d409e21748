"""External networks come from torchvision, timm or a Python function.

| `source` | required key | named weights |
|---|---|---|
| `torchvision` | `model`, a name of `torchvision.models.list_models()` | `IMAGENET1K_V1`, `DEFAULT`, ... |
| `timm` | `model`, a name of `timm.list_models()` | timm's tag, such as `a1_in1k` |
| `python` | `factory` | `factory`: as the function returns them |

All take `trained`, `random`, `random_raw`, `class_only`, and files, too. `random` and `trained` begin
with the weights that the network's own code draws.

- Arguments: torchvision and timm get the `num_classes` of the data, unless `arguments` say otherwise or
  the weights have a name. A factory gets `arguments` and nothing else. Arguments by which a library
  loads a file or an address, such as `pretrained` and `checkpoint_path`, are refused.
- Weight files: safetensors, or PyTorch files, which are read with `weights_only`. Names that are
  missing, unknown or of another shape are listed, and so are NaN and infinite values; nothing runs
  then. BatchNorm's `num_batches_tracked` may be missing, and `_orig_mod.` is removed from names. Values
  of 16 bits are converted exactly, of 64 bits rounded.
- Input: a network gets the data set's image, resized to its `image_size` by linear interpolation with
  antialiasing, without a crop, in its own normalization. A gray image is repeated where the network
  takes colors. Layer -1 is the data set's image for all networks.
- Layers: the names in `layers`; without it the network's attribute `layer_names`; otherwise `auto`,
  which takes the output of every block. A block is an outermost module inside which several tensors
  cross. Outside of blocks it takes every convolution and linear layer with its normalization and
  activation.
- Cutting: torch.fx traces the network, so each half has exactly its own operations. A `forward` that
  branches on values can't be traced. It is cut with hooks where both halves together equal the network,
  bit for bit, on noise and on some images; an unseen branch stays unseen. Such a second half takes the
  time of the whole network.
- Maps with channels last are turned to [C, H, W]. Sequences must have the images on the first axis: [B,
  T, D], not [T, B, D].
- Heads: a receiver's logits must be those of the data's classes. Another network can only send; it
  can't be a teacher, and its `sender_accuracy` is empty.
- Checks: the network is on the CPU with float32 parameters, returns the same logits twice, and writes
  nothing in eval mode. Cells whose gradient the network's `forward` blocks (`detach()`) are refused.
  Notes name outputs that all lie between 0 and 1, and gradients that are all 0.
"""  # noqa: E501
