package client

// Make is a kind of client that can play the scenarios.
type Make struct {
	Name  string
	Start func(Options) (Member, error)
	Can   Abilities
}

// Member is a started client, one member of its group.
type Member interface {
	// Publish sends a message and waits for the broker's word on it.
	Publish(message Message) (ok bool, feedback string, err error)
	// Decide sends the verdict on a prepared message; no reply follows.
	Decide(message Message, verdict Verdict) error
	// Heartbeat expects its echo.
	Heartbeat(version int64) error
	Close()
}

// Abilities are what scenarios ask of a client that not every make lets its application do.
type Abilities struct {
	// PrefixLengths: speaks the framing of the Java client.
	PrefixLengths bool
	// HangUp: breaks its connection on request, and connects again.
	HangUp bool
	// Leave: is disconnected when Close returns.
	Leave bool
	// Heartbeat: sends one on request.
	Heartbeat bool
	// ShowAnswers: shows the broker's words also when it takes a message.
	ShowAnswers bool
	// DecideAgain: sends a second verdict on a message.
	DecideAgain bool
}

// StandIn is the client in this package.
var StandIn = Make{
	Name: "stand-in",
	Start: func(options Options) (Member, error) {
		started, err := Start(options)
		if err != nil {
			return nil, err
		}
		return started, nil
	},
	Can: Abilities{PrefixLengths: true, HangUp: true, Leave: true, Heartbeat: true, ShowAnswers: true, DecideAgain: true},
}
