// Existing plays the scenarios of ../scenarios with the Go client that is in the field. See ../README.md.
package main

import (
	"kiteq/interop/client"
	"kiteq/interop/play"
)

func main() {
	play.Main(client.Make{
		Name:  "existing Go client",
		Start: start,
		// It keeps its connections to itself, and Destroy leaves them open. It shows the broker's words in errors only.
		Can: client.Abilities{},
	})
}
