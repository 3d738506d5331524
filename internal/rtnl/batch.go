package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Batch collects messages to be sent together. The zero Batch is ready.
type Batch struct {
	buf []byte
	ops []op
}

// op is what is known of one message in the buffer.
type op struct {
	off      int
	what     func() string
	tolerate []unix.Errno
}

// Len returns how many messages the batch holds.
func (b *Batch) Len() int { return len(b.ops) }

// Tolerate makes the last message succeed where the kernel answers it with
// one of these errors, as ENOENT for an entry that is already gone.
func (b *Batch) Tolerate(errnos ...unix.Errno) {
	b.ops[len(b.ops)-1].tolerate = errnos
}

// Describe names the last message in errors, in place of the words of ip(8)
// with ifindexes for names.
func (b *Batch) Describe(what func() string) { b.ops[len(b.ops)-1].what = what }

// begin starts a message with its fixed header; what names it in errors.
func (b *Batch) begin(typ, flags uint16, header []byte, what func() string) {
	off := len(b.buf)
	b.ops = append(b.ops, op{off: off, what: what})
	var h [unix.SizeofNlMsghdr]byte
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	b.buf = append(append(b.buf, h[:]...), header...)
	b.pad()
}

// end writes the message's length.
func (b *Batch) end() {
	b.pad()
	off := b.ops[len(b.ops)-1].off
	binary.NativeEndian.PutUint32(b.buf[off:], uint32(len(b.buf)-off))
}

func (b *Batch) pad() {
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// attr appends one attribute.
func (b *Batch) attr(typ uint16, value []byte) {
	var h [4]byte
	binary.NativeEndian.PutUint16(h[:], uint16(4+len(value)))
	binary.NativeEndian.PutUint16(h[2:], typ)
	b.buf = append(append(b.buf, h[:]...), value...)
	b.pad()
}

func (b *Batch) attr8(typ uint16, v uint8) { b.attr(typ, []byte{v}) }

func (b *Batch) attr16BE(typ uint16, v uint16) { b.attr(typ, binary.BigEndian.AppendUint16(nil, v)) }

func (b *Batch) attr32(typ uint16, v uint32) { b.attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }

func (b *Batch) attrString(typ uint16, s string) { b.attr(typ, append([]byte(s), 0)) }

// nest appends an attribute whose value is what fill appends.
func (b *Batch) nest(typ uint16, fill func()) {
	off := len(b.buf)
	b.attr(typ, nil)
	fill()
	binary.NativeEndian.PutUint16(b.buf[off:], uint16(len(b.buf)-off))
}
