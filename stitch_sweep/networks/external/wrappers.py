"""Remove the wrappers around a network: DataParallel, torch.compile, a Lightning module."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from stitch_sweep.core.errors import InputError


def unwrap_all(network: nn.Module) -> nn.Module:
    """Remove wrappers for speed from a network and, in place, from all of its parts."""
    holder = nn.ModuleList([network])
    for module in list(holder.modules()):
        for name, child in list(module._modules.items()):
            if child is not None:
                inner = unwrap(child)
                if inner._compiled_call_impl is not None:  # set by `module.compile()`
                    inner._compiled_call_impl = None
                module._modules[name] = inner
    return holder[0]


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and `torch.compile`."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif type(module).__name__ == "OptimizedModule":  # the class is slow to import
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def is_wrapped_inside(network: nn.Module) -> bool:
    """Return whether a part of a network is wrapped, or compiled in place."""
    return any(
        unwrap(part) is not part or part._compiled_call_impl is not None
        for part in network.modules()
    )


def unwrap_lightning(module: nn.Module, name: str) -> nn.Module:
    """Return the network inside a Lightning module; any other module is returned unchanged.

    The network is the only part with parameters or buffers. A `forward` of the Lightning module's own
    must do nothing but call this part.

    Args:
        module: any module.
        name: its name in messages.

    Raises:
        InputError: there is no such part.
    """
    if not any(kind.__name__ == "LightningModule" for kind in type(module).__mro__):
        return module
    networks = [
        (key, part)
        for key, part in module.named_children()
        if any(True for _ in part.parameters()) or any(True for _ in part.buffers())
    ]
    has_tensors = any(
        True
        for tensors in (module.parameters(recurse=False), module.buffers(recurse=False))
        for _ in tensors
    )
    if len(networks) == 1 and not has_tensors:
        key, network = networks[0]
        forward = type(module).forward
        is_inherited = forward.__module__ != type(module).__module__
        if is_inherited or _only_calls(forward, key):
            return unwrap(network)
    parts = ", ".join(key for key, _ in networks) or "none"
    raise InputError(
        f"{name}: {type(module).__name__} is a Lightning module, and which network is meant is not "
        f"certain (parts with parameters: {parts}; its forward may do more than call one of them). "
        "Give the network inside it, such as lightning_module.model"
    )


def _only_calls(forward: Callable[..., object], part: str) -> bool:
    """Return whether a method is `return self.<part>(image)`, compared by its byte code."""
    code = getattr(forward, "__code__", None)
    template = (lambda self, image: self.part(image)).__code__
    return code is not None and (code.co_code, code.co_names) == (template.co_code, (part,))
