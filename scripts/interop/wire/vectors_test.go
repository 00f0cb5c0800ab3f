package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"testing"
)

const (
	connMetaHeaderOnly     = "000000010200000000000000000000000000160a0a732d6d74732d7465737412063132333435361800"
	connMetaLengthPrefixed = "00000029000000010200020000000000000000000000160a0a732d6d74732d7465737412063132333435361800"
	storeAck               = "0000000704000000000000000000000000003e0a20303132333435363738396162636465663031323334353637383961626364656610011a1853746f726520526573756c74207472756520436f73743a30"
)

func codec(t *testing.T) *Codec {
	codec, err := LoadCodec("../../../proto", "kiteq.proto")
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func TestFramesAreTheBytesInTheField(t *testing.T) {
	meta := Fields{"groupId": "s-mts-test", "secretKey": "123456", "warmingupSec": int32(0)}
	body, err := codec(t).Encode("ConnMeta", meta)
	if err != nil {
		t.Fatal(err)
	}
	frame := Frame{Opaque: 1, Cmd: CmdConnMeta, Body: body}
	for framing, want := range map[Framing]string{HeaderOnly: connMetaHeaderOnly, LengthPrefixed: connMetaLengthPrefixed} {
		encoded := framing.Append(nil, frame)
		if got := hex.EncodeToString(encoded); got != want {
			t.Errorf("%+v: %s instead of %s", framing, got, want)
		}
		read, err := framing.Read(bufio.NewReader(bytes.NewReader(encoded)))
		if err != nil || read.Opaque != 1 || read.Cmd != CmdConnMeta || !bytes.Equal(read.Body, body) {
			t.Errorf("%+v: read back %+v, %v", framing, read, err)
		}
	}
}

func TestAMissingRequiredFieldIsRefused(t *testing.T) {
	encoded, err := hex.DecodeString(storeAck)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := HeaderOnly.Read(bufio.NewReader(bytes.NewReader(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := codec(t).Decode("MessageStoreAck", frame.Body)
	if err != nil || !ack.Flag("status") || ack.Text("feedback") != "Store Result true Cost:0" {
		t.Fatalf("decoded %v, %v", ack, err)
	}
	withoutFeedback := frame.Body[:len(frame.Body)-26]
	if fields, err := codec(t).Decode("MessageStoreAck", withoutFeedback); err == nil {
		t.Fatalf("an ack without its feedback was taken: %v", fields)
	}
}
