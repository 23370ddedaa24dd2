<?php
namespace Late;

class Twice
{
}
