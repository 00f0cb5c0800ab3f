package wire

import (
	"context"
	"fmt"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Codec encodes and decodes the messages of kiteq.proto.
type Codec struct {
	file protoreflect.FileDescriptor
}

// Fields are a message's fields by name. A nested message is Fields, a repeated one []Fields.
type Fields map[string]any

// LoadCodec compiles the proto file in directory.
func LoadCodec(directory, name string) (*Codec, error) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{directory}}}
	files, err := compiler.Compile(context.Background(), name)
	if err != nil {
		return nil, err
	}
	return &Codec{file: files[0]}, nil
}

// Encode writes a message; a required field that fields lacks is an error.
func (c *Codec) Encode(message string, fields Fields) ([]byte, error) {
	encoded, err := c.build(message, fields)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(encoded)
}

// Decode reads a message. A missing required field is an error, and so is a field that the message does not have.
func (c *Codec) Decode(message string, body []byte) (Fields, error) {
	descriptor, err := c.descriptor(message)
	if err != nil {
		return nil, err
	}
	decoded := dynamicpb.NewMessage(descriptor)
	if err := proto.Unmarshal(body, decoded); err != nil {
		return nil, fmt.Errorf("%s: %w", message, err)
	}
	if unknown := decoded.GetUnknown(); len(unknown) > 0 {
		return nil, fmt.Errorf("%s with unknown fields %x", message, unknown)
	}
	return toFields(decoded), nil
}

func (c *Codec) descriptor(message string) (protoreflect.MessageDescriptor, error) {
	descriptor := c.file.Messages().ByName(protoreflect.Name(message))
	if descriptor == nil {
		return nil, fmt.Errorf("the proto file has no message %s", message)
	}
	return descriptor, nil
}

func (c *Codec) build(message string, fields Fields) (*dynamicpb.Message, error) {
	descriptor, err := c.descriptor(message)
	if err != nil {
		return nil, err
	}
	built := dynamicpb.NewMessage(descriptor)
	for name, value := range fields {
		field := descriptor.Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return nil, fmt.Errorf("%s has no field %s", message, name)
		}
		switch value := value.(type) {
		case Fields:
			nested, err := c.build(string(field.Message().Name()), value)
			if err != nil {
				return nil, err
			}
			built.Set(field, protoreflect.ValueOfMessage(nested))
		case []Fields:
			list := built.Mutable(field).List()
			for _, element := range value {
				nested, err := c.build(string(field.Message().Name()), element)
				if err != nil {
					return nil, err
				}
				list.Append(protoreflect.ValueOfMessage(nested))
			}
		default:
			built.Set(field, protoreflect.ValueOf(value))
		}
	}
	return built, nil
}

func toFields(message protoreflect.Message) Fields {
	fields := Fields{}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsList():
			var elements []Fields
			for index := range value.List().Len() {
				elements = append(elements, toFields(value.List().Get(index).Message()))
			}
			fields[string(field.Name())] = elements
		case field.Kind() == protoreflect.MessageKind:
			fields[string(field.Name())] = toFields(value.Message())
		default:
			fields[string(field.Name())] = value.Interface()
		}
		return true
	})
	return fields
}

// Text is a string field; empty when absent.
func (f Fields) Text(name string) string {
	text, _ := f[name].(string)
	return text
}

// Flag is a bool field; false when absent.
func (f Fields) Flag(name string) bool {
	flag, _ := f[name].(bool)
	return flag
}

// Nested is a message field; empty when absent.
func (f Fields) Nested(name string) Fields {
	nested, _ := f[name].(Fields)
	return nested
}
