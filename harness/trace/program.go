package trace

import (
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// event is what the program writes of a drop.
type event struct {
	Time      uint64 // in ns since the machine was started
	Reason    uint32
	Namespace uint32
	Ifindex   uint32
	Length    uint32 // of Packet
	Network   int32  // where in Packet the network header begins
	_         uint32
	Function  [64]byte
	Packet    [512]byte
}

// shared are the maps of the program.
type shared struct{ namespaces, drops, lost, format *ebpf.Map }

// Slots of the program's stack.
const (
	slotPointer  = -8  // what was read last
	slotFunction = -16 // the address that called kfree_skb
	slotInode    = -24
	slotReason   = -28
	slotZero     = -32
	slotSKB      = slotZero - maxSKB // a copy of the struct sk_buff
)

// maxSKB bounds the struct sk_buff in bytes: the stack has 512. It has had 224
// to 240 since Linux 4.0.
const maxSKB = 320

// program is that of the tracepoint kfree_skb(skb, location, reason):
//
//	dev = skb->dev, or else skb->dst->dev
//	if dev->net->inode is none of namespaces: return
//	event = a place in drops, or lost++
//	start = min(skb->data - skb->head, skb->network_header)
//	copy the packet from start to skb->tail; format the function's name
//
// It begins at start, for there may be an older packet's bytes before it. The
// kernel's memory is read by probe_read_kernel, which gives zeros where there
// is nothing.
func program(at *offsets, m *shared) asm.Instructions {
	var e event
	field := func(of uintptr) int16 { return int16(of) }
	const (
		dev, skb, place, start, length = asm.R7, asm.R6, asm.R8, asm.R9, asm.R2
	)
	// read copies from base+offset of the kernel's memory to the stack.
	read := func(slot int32, size int32, base asm.Register, offset int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R3, base),
			asm.Add.Imm(asm.R3, offset),
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, slot),
			asm.Mov.Imm(asm.R2, size),
			asm.FnProbeReadKernel.Call(),
		}
	}
	var code asm.Instructions
	add := func(more ...asm.Instruction) { code = append(code, more...) }

	add(
		asm.LoadMem(skb, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, 8, asm.DWord),
		asm.StoreMem(asm.RFP, slotFunction, asm.R2, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word),
		asm.StoreMem(asm.RFP, slotReason, asm.R2, asm.Word),
		asm.StoreImm(asm.RFP, slotZero, 0, asm.Word),
	)
	add(read(slotSKB, int32(at.size), skb, 0)...)
	add(
		asm.LoadMem(dev, asm.RFP, slotSKB+at.dev, asm.DWord),
		asm.JNE.Imm(dev, 0, "device"),
		// The lowest bits of the pointer are flags (SKB_DST_NOREF).
		asm.LoadMem(dev, asm.RFP, slotSKB+at.dst, asm.DWord),
		asm.And.Imm(dev, ^int32(7)),
		asm.JEq.Imm(dev, 0, "out"),
	)
	add(read(slotPointer, 8, dev, at.dstDev)...)
	add(
		asm.LoadMem(dev, asm.RFP, slotPointer, asm.DWord),
		asm.JEq.Imm(dev, 0, "out"),
	)

	from := len(code)
	add(read(slotPointer, 8, dev, at.net)...)
	code[from] = code[from].WithSymbol("device")
	add(asm.LoadMem(asm.R4, asm.RFP, slotPointer, asm.DWord))
	add(read(slotInode, 4, asm.R4, at.inode)...)
	add(
		asm.LoadMapPtr(asm.R1, m.namespaces.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slotInode),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),

		asm.LoadMapPtr(asm.R1, m.drops.FD()),
		asm.Mov.Imm(asm.R2, int32(unsafe.Sizeof(e))),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(place, asm.R0),

		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Time)), asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, slotReason, asm.Word),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Reason)), asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, slotInode, asm.Word),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Namespace)), asm.R1, asm.Word),
	)
	add(read(slotPointer, 4, dev, at.ifindex)...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, slotPointer, asm.Word),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Ifindex)), asm.R1, asm.Word),

		// start; a network header at 0 is one that was never set.
		asm.LoadMem(asm.R3, asm.RFP, slotSKB+at.head, asm.DWord),
		asm.LoadMem(start, asm.RFP, slotSKB+at.data, asm.DWord),
		asm.Sub.Reg(start, asm.R3),
		asm.LoadMem(asm.R4, asm.RFP, slotSKB+at.network, asm.Half),
		asm.Mov.Imm(asm.R5, -1),
		asm.JEq.Imm(asm.R4, 0, "network"),
		asm.JSGT.Reg(asm.R4, start, "behind"),
		asm.Mov.Reg(start, asm.R4),
		asm.Mov.Reg(asm.R5, asm.R4).WithSymbol("behind"),
		asm.Sub.Reg(asm.R5, start),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Network)), asm.R5, asm.Word).WithSymbol("network"),

		// The packet, as much of it as there is and fits.
		asm.LoadMem(length, asm.RFP, slotSKB+at.tail, asm.Word),
		asm.Sub.Reg(length, start),
		asm.JSGT.Imm(length, 0, "some"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Length)), asm.R1, asm.Word),
		asm.Ja.Label("name"),
		asm.JLE.Imm(length, int32(len(e.Packet)), "all").WithSymbol("some"),
		asm.Mov.Imm(length, int32(len(e.Packet))),
		asm.StoreMem(place, field(unsafe.Offsetof(e.Length)), length, asm.Word).WithSymbol("all"),
		asm.Add.Reg(asm.R3, start),
		asm.Mov.Reg(asm.R1, place),
		asm.Add.Imm(asm.R1, int32(unsafe.Offsetof(e.Packet))),
		asm.FnProbeReadKernel.Call(),

		asm.Mov.Reg(asm.R1, place).WithSymbol("name"),
		asm.Add.Imm(asm.R1, int32(unsafe.Offsetof(e.Function))),
		asm.Mov.Imm(asm.R2, int32(len(e.Function))),
		asm.LoadMapValue(asm.R3, m.format.FD(), 0),
		asm.Mov.Reg(asm.R4, asm.RFP),
		asm.Add.Imm(asm.R4, slotFunction),
		asm.Mov.Imm(asm.R5, 8),
		asm.FnSnprintf.Call(),

		asm.Mov.Reg(asm.R1, place),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("out"),

		asm.LoadMapPtr(asm.R1, m.lost.FD()).WithSymbol("lost"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slotZero),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),

		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
	return code
}
