"""What providers tell the edge: verified, translated, and recorded in provider-events or engagements before it is answered."""
