<?php
namespace Late;

interface Base
{
}
