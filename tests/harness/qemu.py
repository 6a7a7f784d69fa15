# SPDX-License-Identifier: GPL-2.0-or-later
"""How QEMU is asked for a machine on which Xen runs."""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.harness.images import MachineImages
from tests.harness.kernel import DOM0_MODULES, ROOT_DISK_MODULES
from tests.harness.tools import find_tool

QEMU = "qemu-system-x86_64"
QEMU_OWN_MIB = 1024  # translated code, for the most part
KVM_DEVICE = Path("/dev/kvm")
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
CPUID_ENTRIES = 256
CPUID_ENTRY = struct.Struct("<7I12x")  # function, index, flags, eax, ebx, ecx, edx
VMX_LEAF, VMX_ECX_BIT = 1, 5
SVM_LEAF, SVM_ECX_BIT = 0x80000001, 2

# Software emulation (seen with QEMU 7.2 and Xen 4.17). Each flag is there for a fault that it avoids:
#   +svm,+npt            Xen finds AMD's virtualisation with nested paging, so PVH and HVM guests run; else only PV do
#   -smap,-smep,-umip    with SMAP a PV dom0 dies early, of a page fault that nobody handles
#   -monitor             Xen's idle loop would take a general protection fault on MWAIT (with cpuidle=0 below)
#   -rdtscp              a PVH guest would hang: "Insn mismatch ... SVM Insn len emulation failed"
#   -avx,-avx2           in guests with two processors: "Illegal instruction", in some runs, in programs that use them
EMULATED_CPU = "EPYC,+svm,+npt,-smap,-smep,-umip,-monitor,-rdtscp,-avx,-avx2"
# One instruction of the machine is one nanosecond of its clock, and a machine that waits moves its clock on at once. So
# its times say how many instructions a thing took, whatever else the user's machine does meanwhile.
COUNT_INSTRUCTIONS = ("-icount", "shift=0,align=off,sleep=off")
# ONE_PROCESSOR: VMRUN leaves the number of an interrupt that it injected in QEMU's exception_index. A kick of the
# processor without an interrupt of its own (a second processor's turn, or its TLB work) then delivers it once more,
# with interrupts off, and the guest's kernel dies in its entry code. With one processor nobody kicks so.
EMULATED_XEN_ARGUMENTS = (
    # Speculation does not happen in emulation, but its mitigations cost. Without eager-fpu several domains at once
    # corrupt each other's vector registers: programs crash here and there.
    "spec-ctrl=no,eager-fpu=1",
    "cpuidle=0",  # see -monitor above
    # Each switch of domains empties QEMU's cache of translated addresses. With Xen's 1 ms two guests that boot side by
    # side take twice the processor time that they take alone; with 50 ms whoever is woken waits too long.
    "sched_ratelimit_us=10000",
    "bootscrub=0",  # fresh memory is zero here; clearing it all would take one processor for a minute
)


@dataclass(frozen=True)
class MachineSpec:
    """What to ask QEMU and Xen for. The memory sizes are in MiB; the rest of the memory is for guests."""

    memory_mib: int = 4096
    vcpus: int = 1  # see ONE_PROCESSOR
    dom0_memory_mib: int = 1200
    dom0_vcpus: int = 1
    # Xen's ceiling for every domain's grant table; a guest's max_grant_frames above it fails with EINVAL.
    gnttab_max_frames: int = 512
    # Whether the machine's clock counts instructions. Then it is emulated even where KVM could run it.
    count_instructions: bool = False
    xen_arguments: tuple[str, ...] = ()
    dom0_arguments: tuple[str, ...] = ()


def machines_at_once(spec: MachineSpec) -> int:
    """How many such machines can run here: each takes as many processors as it has, its memory and QEMU's own."""
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(1, min(len(os.sched_getaffinity(0)) // spec.vcpus, memory_mib // (spec.memory_mib + QEMU_OWN_MIB)))


@dataclass(frozen=True)
class Sockets:
    """Where the harness listens, and QEMU connects when it starts."""

    qmp: Path
    console: Path
    agent: Path


def nested_kvm() -> bool:
    """Whether this machine's KVM can run a hypervisor as its guest: it offers VMX or SVM to guests."""
    entries = bytearray(8 + CPUID_ENTRY.size * CPUID_ENTRIES)
    struct.pack_into("<I", entries, 0, CPUID_ENTRIES)
    try:
        kvm = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, entries, True)
    except OSError:
        return False
    finally:
        os.close(kvm)
    (count,) = struct.unpack_from("<I", entries, 0)
    for number in range(min(count, CPUID_ENTRIES)):
        leaf, _, _, _, _, ecx, _ = CPUID_ENTRY.unpack_from(entries, 8 + CPUID_ENTRY.size * number)
        if (leaf == VMX_LEAF and ecx >> VMX_ECX_BIT & 1) or (leaf == SVM_LEAF and ecx >> SVM_ECX_BIT & 1):
            return True
    return False


def _escaped(text: str | Path) -> str:
    """QEMU's options are lists apart by commas; a comma of our own is written twice."""
    return str(text).replace(",", ",,")


def _xen_command_line(spec: MachineSpec, *, emulated: bool) -> str:
    memory = f"{spec.dom0_memory_mib}M"
    arguments = [
        *("com1=115200,8n1", "console=com1", "loglvl=warning", "guest_loglvl=warning", "noreboot"),
        f"dom0_mem={memory},max:{memory}",  # without max the kernel makes page tables for all of the machine's memory
        f"dom0_max_vcpus={spec.dom0_vcpus}",
        f"gnttab_max_frames={spec.gnttab_max_frames}",
        *(EMULATED_XEN_ARGUMENTS if emulated else ()),
        *spec.xen_arguments,
    ]
    return " ".join(arguments)


def _dom0_command_line(spec: MachineSpec) -> str:
    arguments = [
        *("console=hvc0", "loglevel=4", "rdinit=/init", "panic=1"),
        "harness.root=/dev/vda harness.project=/dev/vdb harness.init=/lib/systemd/systemd",
        f"harness.modules={','.join(ROOT_DISK_MODULES + DOM0_MODULES)}",
        "systemd.show_status=error",
        *spec.dom0_arguments,
    ]
    return " ".join(arguments)


def _disk(name: str, image: Path) -> list[str]:
    drive = f"if=none,id={name},format=raw,readonly=on,file={_escaped(image)}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]


def qemu_command(spec: MachineSpec, images: MachineImages, sockets: Sockets) -> list[str]:
    """Returns the command that starts the machine, stopped (-S), and dies with the thread that starts it."""
    emulated = spec.count_instructions or not nested_kvm()
    accelerator = (
        ["-accel", "tcg,thread=single", "-cpu", EMULATED_CPU] if emulated else ["-accel", "kvm", "-cpu", "host"]
    )
    modules = f"{_escaped(images.kernel)} {_escaped(_dom0_command_line(spec))},{_escaped(images.initramfs)}"
    return [
        *(find_tool("setpriv"), "--pdeathsig", "KILL", find_tool(QEMU)),
        *("-machine", "q35", *accelerator, "-smp", str(spec.vcpus), "-m", str(spec.memory_mib)),
        *(COUNT_INSTRUCTIONS if spec.count_instructions else ()),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S"),
        *("-chardev", f"socket,id=qmp,path={sockets.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,path={sockets.console}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={sockets.agent}"),
        *("-device", "virtserialport,chardev=agent,name=agent"),
        *_disk("root", images.root),
        *_disk("project", images.project),
        *("-kernel", str(images.hypervisor), "-append", _xen_command_line(spec, emulated=emulated)),
        *("-initrd", modules),
    ]
