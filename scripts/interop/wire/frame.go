// Package wire speaks KiteQ's frames and protobuf bodies with parts that share no code with the broker: Go's own
// protobuf runtime, which refuses a proto2 message that lacks a required field, as the clients in the field do.
package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Commands, as in the byte after a frame's opaque.
const (
	CmdHeartbeat  = 0x01
	CmdConnMeta   = 0x02
	CmdConnAuth   = 0x03
	CmdStoreAck   = 0x04
	CmdDeliverAck = 0x05
	CmdTxAck      = 0x06
	CmdBytes      = 0x11
	CmdString     = 0x12
)

const (
	headerLen    = 19
	bodyBytesMax = 2 << 20
)

// Framing is one of the two ways in which clients in the field cut the stream.
type Framing struct {
	LengthPrefixed bool
	Version        int16
}

var (
	// HeaderOnly is what Go clients send.
	HeaderOnly = Framing{LengthPrefixed: false, Version: 0}
	// LengthPrefixed is what Java clients send.
	LengthPrefixed = Framing{LengthPrefixed: true, Version: 2}
)

// Frame is one request or reply.
type Frame struct {
	Opaque uint32
	Cmd    byte
	Body   []byte
}

// Append adds the encoded frame to buf.
func (f Framing) Append(buf []byte, frame Frame) []byte {
	if f.LengthPrefixed {
		buf = binary.BigEndian.AppendUint32(buf, uint32(headerLen+len(frame.Body)))
	}
	buf = binary.BigEndian.AppendUint32(buf, frame.Opaque)
	buf = append(buf, frame.Cmd)
	buf = binary.BigEndian.AppendUint16(buf, uint16(f.Version))
	buf = binary.BigEndian.AppendUint64(buf, 0)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(frame.Body)))
	return append(buf, frame.Body...)
}

// Read takes one frame, and holds the broker to the framing and version of the connection.
func (f Framing) Read(reader *bufio.Reader) (Frame, error) {
	var prefix uint32
	if f.LengthPrefixed {
		if err := binary.Read(reader, binary.BigEndian, &prefix); err != nil {
			return Frame{}, err
		}
	}
	var header [headerLen]byte
	if _, err := io.ReadFull(reader, header[:]); err != nil {
		return Frame{}, err
	}
	bodyLen := int32(binary.BigEndian.Uint32(header[15:]))
	if bodyLen < 0 || bodyLen > bodyBytesMax {
		return Frame{}, fmt.Errorf("the broker announced a body of %d bytes", bodyLen)
	}
	if f.LengthPrefixed && prefix != uint32(headerLen+bodyLen) {
		return Frame{}, fmt.Errorf("length prefix %d beside a body of %d bytes", prefix, bodyLen)
	}
	if version := int16(binary.BigEndian.Uint16(header[5:])); version != f.Version {
		return Frame{}, fmt.Errorf("version %d on a connection of version %d", version, f.Version)
	}
	frame := Frame{Opaque: binary.BigEndian.Uint32(header[:]), Cmd: header[4], Body: make([]byte, bodyLen)}
	_, err := io.ReadFull(reader, frame.Body)
	return frame, err
}
