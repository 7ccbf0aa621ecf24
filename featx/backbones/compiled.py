"""A network that was compiled ahead of time: a shared library with its weights inside.

Torch's own loader holds the interpreter lock while the network runs, which would stop the decoder; through
the library's C interface nothing is held, and each of several threads computes a batch of its own.

Source: ``torch/csrc/inductor/aoti_runtime/interface.h``, the stable interface of AOTInductor.
"""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Compiled"]

_FAILED = "the compiled network failed"

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype = ctypes.py_object
_capsule_of.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Compiled:
    """Runs batches of exactly the size it was compiled for, on the CPU; safe to call from several threads.

    Parameters
    ----------
    library : Path
        What :mod:`featx.backbones.compiling` made.
    runners : int
        Batches that may run at once; further calls wait.

    Raises
    ------
    OSError
        If the library cannot be loaded.
    RuntimeError
        If it holds no network.
    """

    def __init__(self, library: Path, runners: int) -> None:
        self._library = ctypes.CDLL(str(library.resolve()))
        handle = ctypes.c_void_p()
        try:
            create = self._library.AOTInductorModelContainerCreateWithDevice
            count = self._library.AOTInductorModelContainerGetNumOutputs
            run = self._library.AOTInductorModelContainerRun
            delete = self._library.AOTInductorModelContainerDelete
        except AttributeError as error:
            raise RuntimeError(f"{library.name} is no compiled network: {error}") from error
        create.argtypes = [
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_char_p,
        ]
        count.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]
        pointers = ctypes.POINTER(ctypes.c_void_p)
        run.argtypes = [
            ctypes.c_void_p,
            pointers,
            ctypes.c_size_t,
            pointers,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        delete.argtypes = [ctypes.c_void_p]
        outputs = ctypes.c_size_t()
        if create(ctypes.byref(handle), runners, b"cpu", None):
            raise RuntimeError(f"{library.name} cannot be set up")
        self._close = weakref.finalize(self, delete, handle)
        if count(handle, ctypes.byref(outputs)):
            raise RuntimeError(f"{library.name} does not say what it gives")
        self._handle, self._run, self._outputs = handle, run, outputs.value

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embed images of shape (size, H, W, 3), uint8 and contiguous; gives a float32 (size, dim) each."""
        (capsule,) = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([images])
        given = (ctypes.c_void_p * 1)(_pointer_of(capsule, None))
        made = (ctypes.c_void_p * self._outputs)()
        if self._run(self._handle, given, 1, made, self._outputs, None, None):
            raise RuntimeError(_FAILED)
        capsules = [_capsule_of(pointer, None, None) for pointer in made]
        return tuple(torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules))
